"""Measures what CUDA graphs are worth in a train step, and which of XLA's ways to form them is the fastest.

  python -m benchmarks.cuda_graphs --networks S 'G(N/8)' --dtype=bfloat16 --json=cuda_graphs.json
  python -m benchmarks.cuda_graphs --networks S --graphs convolutions --dtype=bfloat16

XLA records runs of kernels as one CUDA graph, which is one launch for the host (its "command buffers"). GRAPHS has the
ways. The step of each network is the one of `benchmarks.train_step` on one device. It is compiled in each of the ways,
all beside each other, and then all take turns. The medians count. A way that the GPU cannot run is told in a line; one
that ends the process ends the others too, so try a new one alone (--graphs).
"""

import os
import sys

import jax

from benchmarks.command import calls_per_sample, first_line, make_parser, write_json
from benchmarks.train_step import make_together, measure_network
from moonshine_jax.runtime import gpu

BASE = 'between'

GRAPHS = {
  'none': gpu.COMPILER_OPTIONS | {gpu.RECORDED: ''},
  # Between convolutions of cuDNN, which end a graph: XLA's default.
  BASE: gpu.COMPILER_OPTIONS,
  # Those too, in graphs in which kernels run one after the other.
  'convolutions': gpu.COMPILER_OPTIONS | {gpu.RECORDED: gpu.LOOP_OPTIONS[gpu.RECORDED]},
  # Kernels that do not wait for each other may run at the same time: as training has it.
  'concurrent': gpu.LOOP_OPTIONS,
  # With the loop over the steps of a dispatch in the graph, in place of concurrent kernels.
  'loop': gpu.COMPILER_OPTIONS | {gpu.RECORDED: f'{gpu.LOOP_OPTIONS[gpu.RECORDED]},WHILE'},
}


def main(arguments: list[str] | None = None) -> None:
  """Measures the networks one after the other and prints the speed of each way."""
  parser = make_parser(__doc__, repeats=7)
  parser.add_argument('--batch', type=int, default=128, help='images in a step (default: 128)')
  parser.add_argument(
    '--graphs', nargs='+', choices=GRAPHS, default=list(GRAPHS), help=f'ways to measure beside {BASE} (default: all)'
  )
  flags = parser.parse_args(arguments)
  if jax.default_backend() != 'gpu':
    parser.error(f'{jax.default_backend()}: expected a GPU')
  named = [name for name in gpu.LOOP_OPTIONS if name in os.environ.get('XLA_FLAGS', '')]
  if named:
    parser.error(f'XLA_FLAGS names {", ".join(named)}: expected nothing that the ways set')
  options = {name: of_graphs for name, of_graphs in GRAPHS.items() if name in (BASE, *flags.graphs)}
  made = make_together({
    (network, name): (network, flags, 1, of_graphs) for network in flags.networks for name, of_graphs in options.items()
  })  # fmt: skip
  rows, failures = [], []
  for network in flags.networks:
    runs = {}
    for name in options:
      try:
        runs[name] = made[network, name].result()
      except RuntimeError as error:  # of XLA
        failures.append(f'{network}, {name}: {first_line(error)}')
        print(failures[-1], flush=True)
    try:
      rows.append(measure_network(network, flags, runs))
    except RuntimeError as error:
      failures.append(f'{network}: {first_line(error)}')
      print(failures[-1], flush=True)
      continue
    speeds = rows[-1]['images_per_second']
    rows[-1]['ratios'] = {name: speed / speeds[BASE] for name, speed in speeds.items()} if BASE in speeds else {}
    print_row(rows[-1], flags.batch)
    write_json(flags.json, flags, rows, graphs=options, steps_of_a_sample=calls_per_sample())
  if failures:
    sys.exit(f'error: {"; ".join(failures)}')


def print_row(row: dict, batch: int) -> None:
  """Prints the speeds of a network's step, formed in each way."""
  for name, speed in row['images_per_second'].items():
    ratio = f', {row["ratios"][name]:.2f} of {BASE}' if row['ratios'] else ''
    lowest, highest = row['lowest'][name], row['highest'][name]
    print(f'{row["network"]:<20} {name:<14} {speed:>10.0f} images/s ({lowest:.0f} to {highest:.0f})'
          f', {1e3 * batch / speed:.2f} ms a step{ratio}', flush=True)  # fmt: skip


if __name__ == '__main__':
  main()
