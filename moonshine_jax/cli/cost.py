"""`moonshine cost`: what networks cost, and which of them the paper would take within a budget."""

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import ml_collections
from absl.flags import FlagValues
from tabulate import tabulate

from moonshine_jax import paper
from moonshine_jax.cost import counting
from moonshine_jax.cost.latency import measure_network_latencies
from moonshine_jax.errors import UserError, printable, say, warn
from moonshine_jax.models import factory
from moonshine_jax.models.network import COLLECTIONS, Network
from moonshine_jax.models.wide_resnet import Architecture
from moonshine_jax.workdir import provenance
from moonshine_jax.workdir.network_file import open_workdir

TABLES = {'3': paper.TABLE_3, '4': paper.TABLE_4}
CLASSES = {'3': 10, '4': 100}
CHECKPOINT_EXTRAS = 16  # bytes: the step and the optimiser's count of steps, int32, and a key of two uint32
# The value of a row that a flag limits, and the units of the flag in one unit of the value.
BUDGETS = {'max_params': ('parameters', 1), 'max_macs': ('multiply_adds', 1), 'max_latency_ms': ('latency', 1e3)}

# By heading: the name of a row's value, and how it is printed.
COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
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

COUNTED = [name for name, _ in COLUMNS.values() if name not in ('network', 'latency', 'paper_error')]
LAYER_COLUMNS = ('layer', 'kind', 'output', 'parameters', 'multiply-adds')


@dataclasses.dataclass
class Subject:
  """A network that is counted.

  Attributes:
    config: `config.model`.
    model: the module; None where its code may not run.
    num_classes: size of the logits.
    image_shape: (height, width, channels).
    workdir: None for a network by name.
    recorded: what the run in the workdir has recorded that it costs; None where it has not.
    row: the values that are counted and measured, by name.
  """

  config: ml_collections.ConfigDict
  model: nn.Module | None
  num_classes: int
  image_shape: tuple[int, ...]
  workdir: str | None = None
  recorded: counting.Cost | None = None
  row: dict[str, Any] = dataclasses.field(default_factory=dict)


def main(values: FlagValues) -> None:
  """Prints the costs of networks."""
  networks = read_networks(values)
  for network in networks:
    network.row = describe(network, values)
  budgets: dict[str, Any] = {flag: values[flag].value for flag in BUDGETS if values[flag].value is not None}
  for flag, budget in budgets.items():
    networks = within_budget(networks, flag, budget)
  if values.latency and values.max_latency_ms is None:
    add_latencies(networks)
  rows = [network.row for network in networks]
  if budgets:
    rows.sort(key=lambda row: row.get('paper_error', math.inf))
  if values.json:
    print(json.dumps(costs_as_json(rows), indent=1))
  else:
    print_costs(rows)


def read_networks(values: FlagValues) -> list[Subject]:
  """Returns the networks that the flags name, or all of the table. Raises UserError."""
  if values.workdir and not values.network:
    for name in ('image_size', 'num_classes'):
      if values[name].present:
        raise UserError(f'--{name}: expected with --network: a workdir has the images and classes of its data')
  names = list(dict.fromkeys(values.network))
  if not names and not values.workdir:
    names = [str(Architecture(*row[:3])) for row in TABLES[values.table]]
  num_classes = values.num_classes or CLASSES[values.table]
  image_shape = (values.image_size, values.image_size, 3)
  return [
    *(network_by_name(name, num_classes, image_shape) for name in names),
    *(network_of_workdir(workdir, values) for workdir in dict.fromkeys(values.workdir)),
  ]


def network_by_name(name: str, num_classes: int, image_shape: tuple[int, ...]) -> Subject:
  """Returns the network of a name. Raises UserError where there is none."""
  try:
    config = factory.parse_model(name)
    return Subject(config, factory.create_model(config, num_classes, image_shape=image_shape), num_classes, image_shape)
  except UserError as error:
    raise UserError(f'--network: {str(error).replace("config.model.", "")}') from error


def network_of_workdir(workdir: str, values: FlagValues) -> Subject:
  """Returns the network of a run, for the images and classes of its data. Raises UserError."""
  run = open_workdir(workdir)
  config, facts = run.config.model, run.facts
  try:
    run.check_code(config.network, values.trust_code)
  except UserError as error:
    if run.cost is None or values.layers or values.latency or values.max_latency_ms is not None:
      raise
    warn(f'{error}; what the run has recorded is all that is known')
    return Subject(config, None, facts.num_classes, facts.image_shape, workdir, run.cost)
  try:
    model = factory.create_model(config, facts.num_classes, image_shape=facts.image_shape)
  except UserError as error:
    raise UserError(f'{workdir}: {error}') from error
  return Subject(config, model, facts.num_classes, facts.image_shape, workdir)


def describe(network: Subject, values: FlagValues) -> dict[str, Any]:
  """Counts all that can be counted. Raises UserError where the code of a user's network raises anything."""
  try:
    return count(network, TABLES[values.table], values.layers)
  except Exception as error:
    if not factory.is_user_defined(network.config):
      raise
    where = f'{network.workdir or "--network"}: {factory.network_name(network.config)}'
    raise UserError(
      f'{where}: {type(error).__name__}: {str(error)[:500]}: '
      f'expected a network for {network.num_classes} classes and images of {network.image_shape}, in training too'
    ) from error


def count(network: Subject, table: Sequence[paper.PrintedNetwork], layers: bool) -> dict[str, Any]:
  """Returns the row of a network, with its error in the paper's table and its layers if they are asked for."""
  config = network.config
  shape = {'depth': config.depth, 'width': config.width}
  row = {
    'network': f'{factory.network_name(config)} {config.block}',
    **({'workdir': network.workdir} if network.workdir else {}),
    **({'function': config.network} if factory.is_user_defined(config) else shape),
    'block': config.block,
    'num_classes': network.num_classes,
    'image_shape': network.image_shape,
  }
  if network.recorded is not None:
    return row | dict.fromkeys(COUNTED) | dataclasses.asdict(network.recorded)
  assert network.model is not None
  profile = counting.profile(network.model, network.image_shape)
  nbytes = {
    collection: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    for collection, tree in profile.variables.items()
  }
  multiply_adds = [layer.multiply_adds for layer in profile.layers if layer.multiply_adds is not None]
  row |= {
    'parameters': sum(layer.parameters for layer in profile.layers),
    'trainable': sum(layer.trainable for layer in profile.layers),
    'multiply_adds': sum(multiply_adds) if len(multiply_adds) == len(profile.layers) else None,
    'training_activation_bytes': counting.training_bytes(network.model, profile.variables, network.image_shape),
    'inference_activation_bytes': profile.inference_bytes,
    'deployed_bytes': sum(nbytes.values()),
    # A run carries no other variables.
    'checkpoint_bytes': (
      sum(nbytes.values()) + nbytes.get('params', 0) + CHECKPOINT_EXTRAS if nbytes.keys() <= COLLECTIONS else None
    ),
  }
  for printed in table:
    if str(Architecture(*printed[:3])) == row['network'] and not network.workdir:
      row['paper_error'] = printed.error if printed.at_error is None else printed.at_error
  if layers:
    row['layers'] = [dataclasses.asdict(layer) for layer in profile.layers]
  return row


def within_budget(networks: Sequence[Subject], flag: str, budget: float) -> list[Subject]:
  """Returns the networks within the budget of a flag. Raises UserError where there is none."""
  value, units = BUDGETS[flag]
  if value == 'latency':
    add_latencies(networks)
  known = [network for network in networks if network.row[value] is not None]
  within = [network for network in known if network.row[value] * units <= budget]
  if not within:
    least = min((network.row[value] for network in known), default=math.inf) * units
    raise UserError(f'--{flag}={budget:g}: expected at least {least:g}, the least of the {len(networks)} networks left')
  return within


def add_latencies(networks: Sequence[Subject]) -> None:
  """Adds to each row 'latencies', in seconds, in the order of their turns, and their median 'latency'."""
  measured = []
  for network in networks:
    assert network.model is not None
    channels = network.image_shape[-1]
    mean_and_std = (127.5,) * channels  # on which no time depends
    measured.append((Network(network.model, mean_and_std, mean_and_std), network.image_shape))
  for network, seconds in zip(networks, measure_network_latencies(measured), strict=True):
    network.row['latencies'] = seconds
    network.row['latency'] = statistics.median(seconds)


def costs_as_json(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Returns the rows, what is the same in all of them, and where latencies were measured."""
  measured = {'environment': provenance.environment()} if 'latency' in rows[0] else {}
  shared = {
    name: rows[0][name] for name in ('image_shape', 'num_classes') if all(row[name] == rows[0][name] for row in rows)
  }
  return {**measured, **shared, 'rows': rows}


def print_costs(rows: Sequence[dict[str, Any]]) -> None:
  """Prints the networks, with a column for each value that one of them has, and the layers of each."""
  columns = {heading: column for heading, column in COLUMNS.items() if any(column[0] in row for row in rows)}
  lines = [['-' if row.get(name) is None else text(row[name]) for name, text in columns.values()] for row in rows]
  say(_table(lines, columns, left=1))
  for row in rows:
    if 'layers' in row:
      say(f'\n{row["network"]}')
      say(_table(map(_layer_cells, row['layers']), LAYER_COLUMNS, left=2))


def _layer_cells(layer: dict[str, Any]) -> list[str]:
  return [
    layer['path'] or '(itself)',
    layer['kind'],
    'x'.join(map(str, layer['output_shape'])) or '-',
    f'{layer["parameters"]:,}',
    '-' if layer['multiply_adds'] is None else f'{layer["multiply_adds"]:,}',
  ]


def _table(lines: Iterable[Sequence[str]], headings: Iterable[str], left: int) -> str:
  """A table of a terminal, so many of its columns aligned to the left."""
  headings = list(headings)
  alignment = ['left'] * left + ['right'] * (len(headings) - left)
  cells = [[printable(text) for text in line] for line in lines]
  return tabulate(cells, headings, 'plain', disable_numparse=True, colalign=alignment)
