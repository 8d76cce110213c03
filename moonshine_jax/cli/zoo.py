"""`moonshine zoo`: the trained networks that come with the package."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl.flags import FlagValues
from tabulate import tabulate

from moonshine_jax import config as config_lib
from moonshine_jax.errors import printable, say
from moonshine_jax.models import factory
from moonshine_jax.workdir import provenance
from moonshine_jax.workdir.network_file import NetworkFile
from moonshine_jax.workdir.zoo import zoo_names

HEADINGS = ('name', 'network', 'data', 'parameters', 'multiply-adds', 'test error %', 'KiB')


def main(values: FlagValues) -> None:
  """Prints the networks, and what made each."""
  networks = [describe_network(NetworkFile(name)) for name in zoo_names()]
  if values.json:
    print(json.dumps(networks, indent=1))
    return
  alignment = ['left'] * 3 + ['right'] * 4
  cells = [[printable(cell) for cell in cells_of_network(network)] for network in networks]
  say(tabulate(cells, HEADINGS, 'plain', disable_numparse=True, colalign=alignment))
  for network in networks:
    say(f'\n{network["name"]}: {describe_origin(network)}\n  {network["command"]}')


def describe_network(network: NetworkFile) -> dict[str, Any]:
  """Returns what the file of a network says of it, as values that JSON has.

  Raises UserError where the file is damaged.
  """
  config, cost, starts = network.config, network.cost, network.starts
  assert cost  # which every file has
  last = starts[-1]
  return {
    'name': str(network),
    'network': factory.network_name(config.model),
    'block': config.model.block,
    'regime': config_lib.regime(config),
    'data': config.data.name,
    'trained_on': last['config']['data']['name'],
    'parameters': cost.parameters,
    'multiply_adds': cost.multiply_adds,
    'test_error': network.records[-1].get('test_error'),
    'epochs_done': network.records[-1]['epoch'],
    'epochs': config.epochs,
    'seed': config.seed,
    'bytes': network.file.stat().st_size,
    'starts': len(starts),
    **{name: last.get(name) for name in ('command', 'commit', 'processor', 'device', 'devices', 'jax', 'jaxlib')},
  }


def cells_of_network(network: dict[str, Any]) -> Sequence[str]:
  """Returns the cells under HEADINGS of what `describe_network` returns."""
  multiply_adds, error = network['multiply_adds'], network['test_error']
  return (
    network['name'],
    f'{network["network"]} {network["block"]}',
    network['data'],
    f'{network["parameters"]:,}',
    '-' if multiply_adds is None else f'{multiply_adds:,}',
    '-' if error is None else f'{error:.2f}',
    f'{network["bytes"] / 1024:,.0f}',
  )


def describe_origin(network: dict[str, Any]) -> str:
  """Returns in words what made a network, of which `describe_network` returns the facts."""
  of_a_part = f', as it was after {network["epochs_done"]}' * (network['epochs_done'] < network['epochs'])
  words = [f'one run of {network["epochs"]} epochs{of_a_part}, seed {network["seed"]}']
  if network['regime'] != 'none':
    words.append(f'learnt by {network["regime"]}')
  if network['trained_on'] != network['data']:
    words.append(f'on the images of {network["data"]} as {Path(network["trained_on"]).name} has them')
  device = network['device'] if network['device'] != 'cpu' else network['processor']
  words.append(f'commit {provenance.short_commit(network["commit"])}, jaxlib {network["jaxlib"]}, {device}')
  return ', '.join(words)
