"""Profiles a few train steps of each network, and lists the operations that take the time.

  python -m benchmarks.step_trace --networks S 'G(N/8)' --dtype=bfloat16 --folder=traces --json=step_trace.json

For every network the folder gets a trace of one dispatch, as `benchmarks.train_step` times it, on one device: for
TensorBoard or https://ui.perfetto.dev. The table has, of the device's operations (kernels on a GPU), microseconds and
number in a step; of a CPU, those of XLA's threads. A profiler that is running slows the host, and XLA then launches no
command buffers on a GPU: the times of the operations hold, the gaps between them do not.
"""

import argparse
import collections
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
from jax.profiler import ProfileData

from benchmarks.command import calls_per_sample, make_parser, write_json
from benchmarks.train_step import make_our_train_step
from moonshine_jax.models.wide_resnet import Architecture

LISTED = 25  # operations in the table; all are in the JSON


def main(arguments: list[str] | None = None) -> None:
  """Profiles the networks one after the other and prints what their steps consist of."""
  parser = make_parser(__doc__, repeats=None)
  parser.add_argument('--batch', type=int, default=128, help='images in a step (default: 128)')
  parser.add_argument('--folder', required=True, help='folder for the traces, one in it for each network')
  flags = parser.parse_args(arguments)
  rows = []
  for architecture in flags.networks:
    rows.append(profile_network(architecture, flags))
    print_operations(rows[-1])
    write_json(flags.json, flags, rows)


def profile_network(architecture: Architecture, flags: argparse.Namespace) -> dict:
  """Profiles one dispatch of train steps. Returns the operations, by their time, and the path of the trace."""
  run = make_our_train_step(architecture, flags, 1)
  run()
  folder = Path(flags.folder) / ''.join(character if character.isalnum() else '_' for character in str(architecture))
  before = set(folder.rglob('*.xplane.pb'))
  with jax.profiler.trace(folder):
    run()
  (path,) = set(folder.rglob('*.xplane.pb')) - before
  operations = sum_operations(events_of_device(ProfileData.from_file(str(path))), calls_per_sample())
  return {
    'network': str(architecture),
    'trace': str(path),
    'microseconds': sum(operation['microseconds'] for operation in operations),
    'operations': operations,
  }


def events_of_device(profile: ProfileData) -> Iterator[tuple[str, float]]:
  """Yields name and nanoseconds of the operations of the first device, or of XLA's threads on a CPU."""
  planes = {plane.name: plane for plane in profile.planes}
  devices = sorted(name for name in planes if name.startswith('/device:') and any(True for _ in planes[name].lines))
  if devices:
    lines = list(planes[devices[0]].lines)
    # A TPU has a line of its own for them; a GPU has one for each of its streams, beside others that sum them up.
    chosen = [line for line in lines if line.name == 'XLA Ops'] or [line for line in lines if 'Stream' in line.name]
  else:
    chosen = [line for line in planes['/host:CPU'].lines if line.name.startswith('tf_XLA')]
  for line in chosen:
    for event in line.events:
      if not event.name.startswith('ThunkExecutor'):  # what a CPU's operations run in
        yield event.name, event.duration_ns


def sum_operations(events: Iterable[tuple[str, float]], steps: int) -> list[dict]:
  """Sums events by name: rows of the name, its number and its microseconds in a step, the longest first."""
  nanoseconds: dict[str, float] = collections.defaultdict(float)
  counts: collections.Counter[str] = collections.Counter()
  for name, duration in events:
    nanoseconds[name] += duration
    counts[name] += 1
  return [
    {'name': name, 'number': counts[name] / steps, 'microseconds': total / 1e3 / steps}
    for name, total in sorted(nanoseconds.items(), key=lambda item: -item[1])
  ]


def print_operations(row: dict) -> None:
  """Prints the operations of a network that take most of the time."""
  number = sum(operation['number'] for operation in row['operations'])
  print(f'{row["network"]}: {row["microseconds"]:.0f} us in {number:.0f} operations a step; {row["trace"]}')
  for operation in row['operations'][:LISTED]:
    share = operation['microseconds'] / row['microseconds']
    print(f'{operation["microseconds"]:>10.1f} us {share:>6.1%} {operation["number"]:>7.1f}  {operation["name"][:90]}')


if __name__ == '__main__':
  main()
