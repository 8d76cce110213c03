"""What the commands that measure whole networks share: which networks, their flags, and the JSON that they write."""

import argparse
import json
from collections.abc import Sequence

import jax
import ml_collections

from moonshine_jax import paper
from moonshine_jax.config import DTYPES
from moonshine_jax.configs import cifar10
from moonshine_jax.data.splits import Facts
from moonshine_jax.models.factory import create_network
from moonshine_jax.models.network import Network
from moonshine_jax.models.wide_resnet import Architecture
from moonshine_jax.workdir.provenance import environment

NUM_CLASSES = 10
# CIFAR-10's. Its mean and standard deviation are in the units of uint8; a step's time does not depend on them.
FACTS = Facts((32, 32, 3), NUM_CLASSES, mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7))

# Forward passes or train steps that are timed together, by backend. An accelerator runs behind the host, so that
# waiting for each would measure the wait. On a CPU a dispatch begins by touching new memory, once for all its steps.
CALLS_A_SAMPLE = {'cpu': 4, 'gpu': 20, 'tpu': 20}


TABLE_3 = tuple(Architecture(row.depth, row.width, row.block) for row in paper.TABLE_3)
TEACHER = TABLE_3[0]  # the S network, WRN-40-2, beside which every other is set


def make_parser(
  description: str,
  repeats: int | None,
  networks: Sequence[Architecture] | None = TABLE_3,
  which: str = 'the 26 of Table 3',
  dtype: str = 'float32',
) -> argparse.ArgumentParser:
  """A parser with the flags that the commands share.

  Args:
    description: of the command.
    repeats: the default; None where nothing is timed.
    networks: the default ones.
    which: what `networks` are, in words.
    dtype: the default.
  """
  parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument(
    '--networks',
    nargs='+',
    type=_architecture,
    default=networks,
    metavar='NETWORK',
    help=f'as "G(N/8)", of WRN-40-2, or "WRN-16-2 S" (default: {which})',
  )
  parser.add_argument('--dtype', default=dtype, choices=DTYPES, help=f'of the computation (default: {dtype})')
  parser.add_argument('--image_size', type=int, default=32, help='pixels on a side (default: 32)')
  if repeats:
    parser.add_argument(
      '--repeats', type=int, default=repeats, help=f'times that each is timed, after warm-up (default: {repeats})'
    )
  parser.add_argument('--json', help='file to write the measurements to')
  return parser


def _architecture(name):
  try:
    return Architecture.parse(name)
  except ValueError as error:
    raise argparse.ArgumentTypeError(str(error)) from error


def make_config(architecture: Architecture, batch: int, dtype: str) -> ml_collections.ConfigDict:
  """The config of CIFAR-10 with another network, batch size and dtype."""
  config = cifar10.get_config()
  config.batch_size = batch
  config.model.depth, config.model.width, config.model.block = architecture
  config.model.dtype = dtype
  return config


def make_network(config: ml_collections.ConfigDict, axis_name: str | None = None) -> Network:
  """The network of a config, called with uint8 images."""
  return create_network(config.model, FACTS, axis_name)


def calls_a_sample() -> int:
  """How many calls are timed together on this backend."""
  return CALLS_A_SAMPLE[jax.default_backend()]


def write_json(path: str | None, flags: argparse.Namespace, rows: list[dict], **more) -> None:
  """Writes the rows with where they come from, if there is a path."""
  if path:
    named = dict(vars(flags))
    if 'networks' in named:
      named['networks'] = [str(network) for network in flags.networks]
    with open(path, 'w') as file:
      json.dump({'environment': environment(), 'flags': named, **more, 'rows': rows}, file, indent=1)
