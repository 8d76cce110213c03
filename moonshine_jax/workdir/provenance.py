"""What a measurement or a run must say about where it was made."""

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jaxlib
import ml_collections

from moonshine_jax import config as config_lib
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError
from moonshine_jax.runtime import files

FILE = 'environment.jsonl'  # in a workdir


def record_start(workdir: str | os.PathLike, config: ml_collections.ConfigDict, facts: Facts, step: int) -> None:
  """Adds to the workdir's file a line for this start of a run, at a step: when, how, where and of what it was made."""
  path = Path(workdir) / FILE
  start = {
    'time': time.strftime('%Y-%m-%dT%H:%M:%S%z'),
    'step': step,
    'command': shlex.join(sys.orig_argv),
    **environment(),
    'config': config_lib.to_json(config),
    'data': facts.to_json(),
  }
  files.write_atomically(path, ''.join(json.dumps(each) + '\n' for each in [*files.read_records(path), start]))


def read_facts(workdir: str | os.PathLike) -> Facts:
  """Of the data of the run in a workdir, as its last start has them. Raises UserError where it has not begun."""
  path = Path(workdir) / FILE
  try:
    return Facts.from_json(files.read_records(path)[-1]['data'])
  except (IndexError, KeyError, TypeError) as error:
    raise UserError(
      f'{path}: no start of a run of this version in it ({error!r}): expected what training writes'
    ) from error


def environment() -> dict[str, Any]:
  """Hardware, versions and commit, as values for JSON."""
  device = jax.devices()[0]
  return {
    'backend': jax.default_backend(),
    'device': device.device_kind,
    'devices': jax.device_count(),
    'processes': jax.process_count(),
    'processor': _processor(),
    'cpus': len(os.sched_getaffinity(0)),
    'python': platform.python_version(),
    'jax': jax.__version__,
    'jaxlib': jaxlib.__version__,
    'flax': _version('flax'),
    'optax': _version('optax'),
    'orbax': _version('orbax-checkpoint'),
    'torch': _version('torch'),
    'libtpu': _version('libtpu'),
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
    'omp_wait_policy': os.environ.get('OMP_WAIT_POLICY', ''),
    'commit': _commit(),
  }


def _processor():
  try:
    with open('/proc/cpuinfo') as file:
      return next(line.split(':', 1)[1].strip() for line in file if line.startswith('model name'))
  except (OSError, StopIteration):
    return platform.processor()


def _version(package):
  """Of an installed package; None where it is not."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def _commit():
  """The commit of this checkout, with '+' where files differ from it; None outside of a checkout."""

  def git(*command):
    return subprocess.run(
      ('git', *command), cwd=os.path.dirname(os.path.abspath(__file__)), capture_output=True, text=True, check=True
    ).stdout.strip()

  try:
    git('ls-files', '--error-unmatch', os.path.basename(__file__))  # an installed copy may lie in another's checkout
    return git('rev-parse', 'HEAD') + ('+' if git('status', '--porcelain', '--untracked-files=no') else '')
  except (OSError, subprocess.CalledProcessError):
    return None
