"""Networks, flags and JSON that the commands which measure whole networks share."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import jax
import ml_collections

from moonshine_jax import paper
from moonshine_jax.configs import cifar10
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import MISTAKE, tell
from moonshine_jax.fields import DTYPES
from moonshine_jax.models.factory import create_network
from moonshine_jax.models.network import Network
from moonshine_jax.models.wide_resnet import Architecture
from moonshine_jax.runtime import files
from moonshine_jax.workdir.provenance import environment

NUM_CLASSES = 10
# CIFAR-10's. Its mean and standard deviation are in the units of uint8; a step's time does not depend on them.
FACTS = Facts((32, 32, 3), NUM_CLASSES, mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7))

# Forward passes or train steps that are timed together, by backend. An accelerator runs behind the host, so that
# waiting after every call would measure the wait. On a CPU a dispatch begins by touching new memory, once for all its
# steps.
CALLS_PER_SAMPLE = {'cpu': 4, 'gpu': 20, 'tpu': 20}


TABLE_3 = tuple(Architecture(row.depth, row.width, row.block) for row in paper.TABLE_3)
TEACHER = TABLE_3[0]  # the S network, WRN-40-2, with which every other is compared


class OneLineParser(argparse.ArgumentParser):
  """A parser that tells of a bad flag in one line."""

  def error(self, message: str) -> NoReturn:
    """Ends the command."""
    tell(message)
    sys.exit(MISTAKE)


def make_parser(
  description: str,
  repeats: int | None,
  networks: Sequence[Architecture] | None = TABLE_3,
  networks_help: str = 'the 26 of Table 3',
  dtype: str = 'float32',
) -> argparse.ArgumentParser:
  """Makes a parser with the flags that the commands share.

  Args:
    description: of the command.
    repeats: default of `--repeats`; None where nothing is timed, for a parser without this flag.
    networks: default of `--networks`.
    networks_help: describes this default.
    dtype: default of `--dtype`.

  Returns:
    The parser, to which a command adds its other flags.
  """
  parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument(
    '--networks',
    nargs='+',
    type=_parse_architecture,
    default=networks,
    metavar='NETWORK',
    help=f'as "G(N/8)", of WRN-40-2, or "WRN-16-2 S" (default: {networks_help})',
  )
  parser.add_argument('--dtype', default=dtype, choices=DTYPES, help=f'of the computation (default: {dtype})')
  parser.add_argument('--image_size', type=int, default=32, help='pixels on a side (default: 32)')
  if repeats:
    parser.add_argument(
      '--repeats', type=int, default=repeats, help=f'times that each is timed, after warm-up (default: {repeats})'
    )
  add_json(parser)
  return parser


def add_json(parser: argparse.ArgumentParser) -> None:
  """Adds the flag --json. A file that cannot be written is refused before anything is measured."""
  parser.add_argument('--json', type=_check_file, help='file to write the measurements to')


def _check_file(path: str) -> str:
  if not Path(path).absolute().parent.is_dir() or Path(path).is_dir():
    raise argparse.ArgumentTypeError(f'{path}: expected a file in a folder that is there')
  return path


def _parse_architecture(name: str) -> Architecture:
  """Parses the value of a flag as `Architecture.parse` does, with argparse's error."""
  try:
    return Architecture.parse(name)
  except ValueError as error:
    raise argparse.ArgumentTypeError(str(error)) from error


def make_config(architecture: Architecture, batch: int, dtype: str) -> ml_collections.ConfigDict:
  """Makes the config of CIFAR-10 with another network, batch size and dtype."""
  config = cifar10.get_config()
  config.batch_size = batch
  config.model.depth, config.model.width, config.model.block = architecture
  config.model.dtype = dtype
  return config


def make_network(config: ml_collections.ConfigDict, axis_name: str | None = None) -> Network:
  """Makes the network of a config for images of CIFAR-10; BN is averaged over the devices of `axis_name`."""
  return create_network(config.model, FACTS, axis_name)


def calls_per_sample() -> int:
  """Returns how many calls are timed together on this backend."""
  return CALLS_PER_SAMPLE[jax.default_backend()]


def first_line(error: BaseException) -> str:
  """Returns the first line of an error's message, or its type where it has none: XLA's and PyTorch's are pages."""
  return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def write_json(path: str | None, flags: argparse.Namespace, rows: list[dict], **fields) -> None:
  """Writes measurements as JSON, with the environment and the flags that they were made with.

  Args:
    path: of the file; None to write nothing.
    flags: of the command.
    rows: the measurements.
    **fields: what else belongs in the JSON, by name.
  """
  if path:
    flag_values = dict(vars(flags))
    if 'networks' in flag_values:
      flag_values['networks'] = [str(network) for network in flags.networks]
    values = {'environment': environment(), 'flags': flag_values, **fields, 'rows': rows}
    files.write_atomically(path, json.dumps(values, indent=1))
