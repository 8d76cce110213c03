"""What networks cost, and which the paper would take within a budget: `python -m moonshine_jax.cost`.

  python -m moonshine_jax.cost                                          # all of Table 3
  python -m moonshine_jax.cost --network='G(N/8)' --network='WRN-16-2 S' --latency --layers
  python -m moonshine_jax.cost --network='ResNet-18 G(N/8)' --image_size=224 --num_classes=1000
  python -m moonshine_jax.cost --network='mine.py:network G(N/8)'       # a function of your own; S without a block
  python -m moonshine_jax.cost --workdir=runs/teacher --workdir=runs/student
  python -m moonshine_jax.cost --max_params=300000 --max_latency_ms=5   # those within both, the lowest error first

Of each network: parameters, as the paper counts them (with BN's running statistics) and those that are trained;
multiply-adds of one image; the activations of one image, those that training keeps (`cost.training_bytes`) and the peak
of inference (`cost.Activations.peak`); the arrays that are deployed (all variables), and those of a training checkpoint
(the momentum as well). Of a network of your own, '-' stands for what its loops hide, and for the checkpoint of one that
cannot be trained. All are float32, but for the activations of a run in bfloat16. Errors are the paper's by attention
transfer, the teacher's its own.

The latency is the median time from one uint8 image to its logits in evaluation mode, compiled for one device of this
machine, all networks taking turns. Without it nothing is computed. A workdir is of a run that has begun: its network is
counted for the classes and the images of its own data, which is not read.
"""

import dataclasses
import functools
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import ml_collections
from absl import flags

from moonshine_jax import errors, paper
from moonshine_jax.columns import aligned
from moonshine_jax.cost import counting, timing
from moonshine_jax.errors import UserError
from moonshine_jax.models import factory
from moonshine_jax.models.network import COLLECTIONS, Network
from moonshine_jax.models.wide_resnet import Architecture
from moonshine_jax.workdir import provenance
from moonshine_jax.workdir import workdir as workdir_lib

TABLES = {'3': paper.TABLE_3, '4': paper.TABLE_4}
CLASSES = {'3': 10, '4': 100}
REPEATS = 15  # times that a latency is measured, after two calls that are not
CHECKPOINT_EXTRAS = 16  # bytes: the step and the optimiser's count of steps, int32, and a key of two uint32

NETWORK = flags.DEFINE_multi_string(
  'network',
  [],
  'A network, as "G(N/8)" for WRN-40-2, "WRN-16-2 S", "ResNet-18 G(N/8)" or "mine.py:function G(N/8)"; '
  'may be repeated. All of the table without it.',
)
WORKDIR = flags.DEFINE_multi_string(
  'workdir', [], 'A workdir, for its network, with the classes and the images of its data; may be repeated.'
)
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


@dataclasses.dataclass
class Subject:
  """What is counted.

  Attributes:
    config: `config.model`.
    model: the module.
    num_classes: size of the logits.
    image_shape: (height, width, channels).
    workdir: None of a network by name.
    row: all that is found out.
  """

  config: ml_collections.ConfigDict
  model: nn.Module
  num_classes: int
  image_shape: tuple[int, ...]
  workdir: str | None = None
  row: dict[str, Any] = dataclasses.field(default_factory=dict)


def main() -> None:
  budgets = [
    (flag, value, unit)
    for flag, value, unit in (
      (MAX_PARAMS, 'parameters', 1),
      (MAX_MACS, 'multiply_adds', 1),
      (MAX_LATENCY_MS, 'latency', 1e-3),
    )
    if flag.value is not None
  ]
  networks = read_networks()
  for network in networks:
    describe(network)
  for flag, value, unit in budgets:
    if value == 'latency':
      measure_latencies(networks)
    known = [network for network in networks if network.row[value] is not None]
    within = [network for network in known if network.row[value] <= flag.value * unit]
    if not within:
      least = min((network.row[value] for network in known), default=math.inf) / unit
      raise UserError(
        f'--{flag.name}={flag.value:g}: expected at least {least:g}, the least of the {len(networks)} networks left'
      )
    networks = within
  if LATENCY.value and MAX_LATENCY_MS.value is None:
    measure_latencies(networks)
  rows = [network.row for network in networks]
  if budgets:
    rows.sort(key=lambda row: row.get('paper_error', math.inf))
  if JSON.value:
    measured = {'environment': provenance.environment()} if 'latency' in rows[0] else {}
    shared = {
      name: rows[0][name] for name in ('image_shape', 'num_classes') if all(row[name] == rows[0][name] for row in rows)
    }
    print(json.dumps({**measured, **shared, 'rows': rows}, indent=1))
  else:
    tell(rows)


def read_networks() -> list[Subject]:
  """Those of the flags. Raises UserError."""
  if WORKDIR.value and not NETWORK.value:
    for flag in (IMAGE_SIZE, NUM_CLASSES):
      if flag.present:
        raise UserError(f'--{flag.name}: expected with --network: a workdir has the images and classes of its data')
  names = list(dict.fromkeys(NETWORK.value))
  if not names and not WORKDIR.value:
    names = [str(Architecture(*printed[:3])) for printed in TABLES[TABLE.value]]
  return [*map(by_name, names), *map(of_workdir, dict.fromkeys(WORKDIR.value))]


def by_name(name: str) -> Subject:
  """For the images and classes of the flags. Raises UserError."""
  num_classes, image_shape = NUM_CLASSES.value or CLASSES[TABLE.value], (IMAGE_SIZE.value, IMAGE_SIZE.value, 3)
  try:
    config = factory.parse(name)
    return Subject(config, factory.create_model(config, num_classes, image_shape=image_shape), num_classes, image_shape)
  except UserError as error:
    raise UserError(f'--network: {str(error).replace("config.model.", "")}') from error


def of_workdir(workdir: str) -> Subject:
  """For the images and classes of its data. Raises UserError."""
  if not (Path(workdir) / workdir_lib.FILE).exists():
    raise UserError(f'{workdir}: no {workdir_lib.FILE} in it: expected the workdir of a training run')
  config, facts = workdir_lib.read(workdir).model, provenance.read_facts(workdir)
  try:
    model = factory.create_model(config, facts.num_classes, image_shape=facts.image_shape)
  except UserError as error:
    raise UserError(f'{workdir}: {error}') from error
  return Subject(config, model, facts.num_classes, facts.image_shape, workdir)


def describe(network: Subject) -> None:
  """Counts all that is counted. Raises UserError where the code of a user's own network raises anything."""
  try:
    network.row = count(network)
  except Exception as error:
    if not factory.is_user(network.config):
      raise
    raise UserError(
      f'{network.workdir or "--network"}: {factory.name(network.config)}: {type(error).__name__}: {str(error)[:500]}: '
      f'expected a network for {network.num_classes} classes and images of {network.image_shape}, in training too'
    ) from error


def count(network: Subject) -> dict[str, Any]:
  """A row: all that is counted of a network."""
  config = network.config
  profile = counting.profile(network.model, network.image_shape)
  nbytes = {
    collection: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    for collection, tree in profile.variables.items()
  }
  multiply_adds = [layer.multiply_adds for layer in profile.layers]
  row = {
    'network': f'{factory.name(config)} {config.block}',
    **({'workdir': network.workdir} if network.workdir else {}),
    **({'function': config.network} if factory.is_user(config) else {'depth': config.depth, 'width': config.width}),
    'block': config.block,
    'num_classes': network.num_classes,
    'image_shape': network.image_shape,
    'parameters': sum(layer.parameters for layer in profile.layers),
    'trainable': sum(layer.trainable for layer in profile.layers),
    'multiply_adds': None if None in multiply_adds else sum(multiply_adds),
    'training_activation_bytes': counting.training_bytes(network.model, profile.variables, network.image_shape),
    'inference_activation_bytes': profile.inference_bytes,
    'deployed_bytes': sum(nbytes.values()),
    # A run carries no other variables.
    'checkpoint_bytes': (
      sum(nbytes.values()) + nbytes.get('params', 0) + CHECKPOINT_EXTRAS if nbytes.keys() <= COLLECTIONS else None
    ),
  }
  for printed in TABLES[TABLE.value]:
    if str(Architecture(*printed[:3])) == row['network'] and not network.workdir:
      row['paper_error'] = printed.error if printed.at_error is None else printed.at_error
  if LAYERS.value:
    row['layers'] = [dataclasses.asdict(layer) for layer in profile.layers]
  return row


def measure_latencies(networks: Sequence[Subject]) -> None:
  """Adds to each row 'latencies', in seconds, in the order of their turns, and their median 'latency'."""
  calls = {}
  for i, network in enumerate(networks):
    channels = network.image_shape[-1]
    whole = Network(network.model, mean=(127.5,) * channels, std=(127.5,) * channels)  # of which no time depends
    calls[i] = functools.partial(timing.compile_forward(whole, network.image_shape, batch=1), 1)
  latencies = timing.in_turns(calls, REPEATS)
  for i, network in enumerate(networks):
    network.row['latencies'] = latencies[i]
    network.row['latency'] = statistics.median(latencies[i])


def tell(rows: list[dict[str, Any]]) -> None:
  """Prints the networks, with a column for whatever one of them has, and the layers of each."""
  columns = {heading: column for heading, column in COLUMNS.items() if any(column[0] in row for row in rows)}
  print(
    aligned(
      [
        list(columns),
        *(['-' if row.get(value) is None else shown(row[value]) for value, shown in columns.values()] for row in rows),
      ]
    )
  )
  for row in rows:
    if 'layers' in row:
      print(f'\n{row["network"]}')
      print(
        aligned(
          [
            ['layer', 'kind', 'output', 'parameters', 'multiply-adds'],
            *(
              [
                layer['path'] or '(itself)',
                layer['kind'],
                'x'.join(map(str, layer['output_shape'])) or '-',
                f'{layer["parameters"]:,}',
                '-' if layer['multiply_adds'] is None else f'{layer["multiply_adds"]:,}',
              ]
              for layer in row['layers']
            ),
          ],
          left=2,
        )
      )


if __name__ == '__main__':
  errors.run_command(main)
