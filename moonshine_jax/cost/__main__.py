"""What networks cost, and which the paper would take within a budget: `python -m moonshine_jax.cost`.

  python -m moonshine_jax.cost                                          # all of Table 3
  python -m moonshine_jax.cost --network='G(N/8)' --network='WRN-16-2 S' --latency --layers
  python -m moonshine_jax.cost --max_params=300000 --max_latency_ms=5   # those within both, the lowest error first

Of each network: parameters, as the paper counts them (with BN's running statistics) and those that are trained;
multiply-adds of one image; the activations of one image, those that training keeps and the peak of inference, as
`cost.Profile` defines them; the arrays that are deployed (all variables), and those of a training checkpoint (the
momentum as well). All are float32. Errors are the paper's by attention transfer, the teacher's its own.

The latency is the median time from one uint8 image to its logits in evaluation mode, compiled for one device of this
machine, all networks taking turns. Without it nothing is computed.
"""

import dataclasses
import functools
import json
import math
import statistics
from collections.abc import Sequence
from typing import Any

from absl import flags

from moonshine_jax import console, cost, errors, paper, steps, timing
from moonshine_jax.environment import environment
from moonshine_jax.models.wide_resnet import Architecture, WideResNet

TABLES = {'3': paper.TABLE_3, '4': paper.TABLE_4}
CLASSES = {'3': 10, '4': 100}
REPEATS = 15  # times that a latency is measured, after two calls that are not
CHECKPOINT_EXTRAS = 16  # bytes: the step and the optimiser's count of steps, int32, and a key of two uint32

NETWORK = flags.DEFINE_multi_string(
  'network', [], 'A network, as "G(N/8)" for WRN-40-2 or "WRN-16-2 S"; may be repeated. All of the table without it.')
TABLE = flags.DEFINE_enum('table', '3', list(TABLES), "The paper's table: 3 for CIFAR-10, 4 for CIFAR-100.")
IMAGE_SIZE = flags.DEFINE_integer('image_size', 32, 'Pixels on a side, of 3 channels.', 1, 4096)
NUM_CLASSES = flags.DEFINE_integer('num_classes', None, "Size of the logits; by default the table's.", 1, 10**6)
LAYERS = flags.DEFINE_bool('layers', False, 'Lists the layers of each network.')
LATENCY = flags.DEFINE_bool('latency', False, 'Measures the latency on this machine.')
MAX_PARAMS = flags.DEFINE_integer('max_params', None, 'Budget of parameters, counted as in the paper.', 1)
MAX_MACS = flags.DEFINE_integer('max_macs', None, 'Budget of multiply-adds.', 1)
MAX_LATENCY_MS = flags.DEFINE_float('max_latency_ms', None, 'Budget of milliseconds; measures the latency.', 0)
JSON = flags.DEFINE_bool('json', False, 'Prints JSON: sizes in bytes, latencies in seconds.')

# By heading: the name of a row's value, and how it is printed.
COLUMNS = {
  'network': ('network', str),
  'parameters': ('parameters', '{:,}'.format),
  'trainable': ('trainable', '{:,}'.format),
  'multiply-adds': ('multiply_adds', '{:,}'.format),
  'training KiB': ('training_activation_bytes', lambda value: f'{value / 1024:,.0f}'),
  'inference KiB': ('inference_activation_bytes', lambda value: f'{value / 1024:,.0f}'),
  'deployed KiB': ('deployed_bytes', lambda value: f'{value / 1024:,.0f}'),
  'checkpoint KiB': ('checkpoint_bytes', lambda value: f'{value / 1024:,.0f}'),
  'latency ms': ('latency', lambda value: f'{1e3 * value:.3f}'),
  "paper's error %": ('paper_error', '{:.2f}'.format),
}


def main() -> None:
  budgets = [(flag, value, unit) for flag, value, unit in (
    (MAX_PARAMS, 'parameters', 1), (MAX_MACS, 'multiply_adds', 1), (MAX_LATENCY_MS, 'latency', 1e-3))
    if flag.value is not None]
  architectures = parse_networks() or [Architecture(*row[:3]) for row in TABLES[TABLE.value]]
  image_shape = (IMAGE_SIZE.value, IMAGE_SIZE.value, 3)
  num_classes = NUM_CLASSES.value or CLASSES[TABLE.value]

  rows = [describe(architecture, image_shape, num_classes) for architecture in architectures]
  for flag, value, unit in budgets:
    if value == 'latency':
      measure_latencies(rows, image_shape, num_classes)
    within = [row for row in rows if row[value] <= flag.value * unit]
    if not within:
      least = min(row[value] for row in rows) / unit
      raise errors.UserError(
        f'--{flag.name}={flag.value:g}: expected at least {least:g}, the least of the {len(rows)} networks left')
    rows = within
  if LATENCY.value and MAX_LATENCY_MS.value is None:
    measure_latencies(rows, image_shape, num_classes)
  if budgets:
    rows.sort(key=lambda row: row.get('paper_error', math.inf))
  if JSON.value:
    measured = {'environment': environment()} if 'latency' in rows[0] else {}
    print(json.dumps({**measured, 'image_shape': image_shape, 'num_classes': num_classes, 'rows': rows}, indent=1))
  else:
    tell(rows)


def parse_networks() -> list[Architecture]:
  """Those of --network. Raises UserError."""
  try:
    return [Architecture.parse(name) for name in dict.fromkeys(NETWORK.value)]
  except ValueError as error:
    raise errors.UserError(f'--network: {error}') from error


def describe(architecture: Architecture, image_shape: Sequence[int], num_classes: int) -> dict[str, Any]:
  """A row: all that is counted of a network."""
  profile = cost.profile(WideResNet(*architecture, num_classes), image_shape)
  parameters, trainable, multiply_adds = (
    sum(getattr(layer, name) for layer in profile.layers) for name in ('parameters', 'trainable', 'multiply_adds'))
  row = {
    'network': str(architecture),
    **architecture._asdict(),
    'parameters': parameters,
    'trainable': trainable,
    'multiply_adds': multiply_adds,
    'training_activation_bytes': profile.training_bytes,
    'inference_activation_bytes': profile.inference_bytes,
    'deployed_bytes': 4 * parameters,
    'checkpoint_bytes': 4 * (parameters + trainable) + CHECKPOINT_EXTRAS,
  }
  for printed in TABLES[TABLE.value]:
    if printed[:3] == architecture:
      row['paper_error'] = printed.error if printed.at_error is None else printed.at_error
  if LAYERS.value:
    row['layers'] = [dataclasses.asdict(layer) for layer in profile.layers]
  return row


def measure_latencies(rows: list[dict[str, Any]], image_shape: Sequence[int], num_classes: int) -> None:
  """Adds to each row 'latencies', in seconds, in the order of their turns, and their median 'latency'."""
  calls = {}
  for row in rows:
    model = WideResNet(row['depth'], row['width'], row['block'], num_classes)
    network = steps.Network(model, mean=(127.5,) * 3, std=(127.5,) * 3)  # of which no time depends
    calls[row['network']] = functools.partial(timing.compile_forward(network, image_shape, batch=1), 1)
  latencies = timing.in_turns(calls, REPEATS)
  for row in rows:
    row['latencies'] = latencies[row['network']]
    row['latency'] = statistics.median(row['latencies'])


def tell(rows: list[dict[str, Any]]) -> None:
  """Prints the networks, with a column for whatever one of them has, and the layers of each."""
  columns = {heading: column for heading, column in COLUMNS.items() if any(column[0] in row for row in rows)}
  console.print_table([list(columns), *(
    [shown(row[value]) if value in row else '-' for value, shown in columns.values()] for row in rows)])
  for row in rows:
    if 'layers' in row:
      print(f'\n{row["network"]}')
      console.print_table([['layer', 'kind', 'output', 'parameters', 'multiply-adds'], *(
        [layer['path'], layer['kind'], 'x'.join(map(str, layer['output_shape'])), f'{layer["parameters"]:,}',
         f'{layer["multiply_adds"]:,}'] for layer in row['layers'])], left=2)


if __name__ == '__main__':
  errors.run_command(main)
