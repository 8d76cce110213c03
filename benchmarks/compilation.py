"""Measures how long each network's train step takes to compile on this machine.

  python -m benchmarks.compilation --json=compilation.json
  python -m benchmarks.compilation --networks S 'G(N/8)' --repeats=3

What is compiled is what training runs on all local devices, a CPU divided into one device a core: the loop over the
steps of a dispatch. JAX traces it and XLA compiles it, both from nothing: a run that finds its program in the
compilation cache waits for neither. CPU seconds are those of all cores together.
"""

import argparse
import statistics
import time

import jax

from benchmarks.command import make_parser, write_json
from benchmarks.lowering import DescribedReplicas, describe_steps
from moonshine_jax.models.wide_resnet import Architecture
from moonshine_jax.runtime.devices import use_all_cores


def main(arguments: list[str] | None = None) -> None:
  """Compiles the train step of every network and prints the seconds."""
  parser = make_parser(__doc__, repeats=1)
  parser.add_argument('--batch', type=int, default=128, help='images in a step, over all devices (default: 128)')
  flags = parser.parse_args(arguments)
  use_all_cores(flags.batch)
  replicas = DescribedReplicas(jax.local_devices())
  if flags.batch < 1 or flags.batch % len(replicas):
    parser.error(f'--batch={flags.batch}: expected a multiple of the {len(replicas)} devices')
  jax.config.update('jax_enable_compilation_cache', False)

  print(f'{"network":<20} {"tracing s":>10} {"XLA s":>10} {"together":>10} {"CPU s":>10}')
  rows = []
  for architecture in flags.networks:
    turns = [compile_once(architecture, flags, replicas) for _ in range(flags.repeats)]
    median = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
    print(
      f'{architecture!s:<20} {median["tracing"]:>10.1f} {median["xla"]:>10.1f} '
      f'{median["tracing"] + median["xla"]:>10.1f} {median["cpu"]:>10.1f}',
      flush=True,
    )
    rows.append({'network': str(architecture), **median, 'turns': turns})
  write_json(flags.json, flags, rows, devices=len(replicas))


def compile_once(architecture: Architecture, flags: argparse.Namespace, replicas: DescribedReplicas) -> dict:
  """Returns the seconds that JAX takes to trace ('tracing') and XLA to compile ('xla'), and CPU seconds of both."""
  lower, _ = describe_steps(architecture, flags, replicas)
  jax.clear_caches()
  cpu, start = time.process_time(), time.perf_counter()
  lowered = lower()
  traced = time.perf_counter()
  lowered.compile()
  done = time.perf_counter()
  return {'tracing': traced - start, 'xla': done - traced, 'cpu': time.process_time() - cpu}


if __name__ == '__main__':
  main()
