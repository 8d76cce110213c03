"""Provenance: where and how a run or a measurement was made."""

import dataclasses
import functools
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import jax
import ml_collections
from msgspec import Meta

from moonshine_jax import config as config_lib
from moonshine_jax.cost import counting
from moonshine_jax.data import names
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError, warn_once
from moonshine_jax.models import factory
from moonshine_jax.runtime import cpu, files, json_files, settings, trust, user_functions

FILE = 'environment.jsonl'  # in a workdir

# What a run may go on under in another form, though not to the same bits: its sums are then rounded in another order.
ROUNDING = ('backend', 'device', 'devices', 'jaxlib', 'xla_flags')


class Start(TypedDict):
  """The schema of a start. Other versions record other fields of the environment, which are shown and not read."""

  step: NotRequired[Annotated[int, Meta(ge=0)]]
  config: NotRequired[dict[str, Any]]
  data: NotRequired[Facts]
  functions: NotRequired[dict[str, str]]
  cost: NotRequired[counting.Cost]
  settings: NotRequired[dict[str, Any]]


def record_start(workdir: str | os.PathLike, config: ml_collections.ConfigDict, facts: Facts, step: int) -> None:
  """Records a start of a run, at a step, in its workdir: time, command, environment, config and facts of the data.

  Of user-defined functions it records the checksums, and of a user-defined network the parameters and multiply-adds, so
  that no code need run to read them.
  """
  path = Path(workdir) / FILE
  start = {
    'time': time.strftime('%Y-%m-%dT%H:%M:%S%z'),
    'step': step,
    'command': shlex.join(sys.orig_argv),
    **environment(),
    'config': config_lib.to_json(config),
    'data': facts.to_json(),
    'functions': functions_of(config),
  }
  if factory.is_user_defined(config.model):
    model = factory.create_model(config.model, facts.num_classes, image_shape=facts.image_shape)
    start['cost'] = dataclasses.asdict(counting.count_cost(model, facts.image_shape))
  files.write_atomically(path, ''.join(map(json_files.json_line, [*read_starts(workdir), start])))


def functions_of(config: ml_collections.ConfigDict) -> dict[str, str]:
  """Returns the checksums of the user-defined functions of a config, by name."""
  functions = {config.model.network: user_functions.is_name, config.data.name: names.is_function}
  functions |= dict.fromkeys(_losses_of(config), user_functions.is_name)
  return {name: trust.checksum(name) for name, is_function in functions.items() if is_function(name)}


def _losses_of(config: ml_collections.ConfigDict) -> list[str]:
  """The forms of the losses that a run uses."""
  return [
    config.distill[form] for form in ('kd_form', 'at_form') if f'distill.{form}' in config_lib.loss_fields(config)
  ]


def check_resumption(workdir: str | os.PathLike, config: ml_collections.ConfigDict) -> None:
  """Compares this process with the one of the last start of a run, if there is one.

  Args:
    workdir: of the run.
    config: with which it is to go on.

  Raises:
    UserError: where settings of JAX differ: the run would go on with another arithmetic or other random numbers; and
      where the file of a user-defined loss has changed: it would go on with another loss.
  """
  for start in read_starts(workdir)[-1:]:
    if difference := settings.describe_changes(settings.current_settings(), start.get('settings', {})):
      raise UserError(f'{workdir} holds a run under {difference}: expected the same, to go on, or another workdir')
    recorded = start.get('functions', {})
    for name in filter(user_functions.is_name, _losses_of(config)):
      if name in recorded and trust.checksum(name) != recorded[name]:
        raise UserError(
          f'{workdir} holds a run of another loss: {trust.source_files(name)[-1]} has changed since it began: expected '
          'the file as it was, to go on, or another workdir'
        )


def tell_changes(workdir: str | os.PathLike) -> None:
  """Warns where a run goes on under other devices or another version of JAX than it began: equal to rounding."""
  now = environment()
  for start in read_starts(workdir)[-1:]:
    changed = [
      f'{name} {now[name]!r} (there: {start[name]!r})' for name in ROUNDING if start.get(name, now[name]) != now[name]
    ]
    if changed:
      warn_once(f'{workdir}: goes on under {", ".join(changed)}: equal to rounding, not to the bit')


def read_starts(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """Returns the starts of a run as `record_start` recorded them; none where there is no file.

  Raises UserError where the file is damaged.
  """
  return [dict(start) for start in json_files.read_records(Path(workdir) / FILE, Start)]


def read_facts(workdir: str | os.PathLike) -> Facts:
  """Returns the facts of a run's data, as of its last start. Raises UserError where it has not begun."""
  path = Path(workdir) / FILE
  try:
    return Facts.from_json(read_starts(workdir)[-1]['data'])
  except (IndexError, KeyError, TypeError) as error:
    raise UserError(
      f'{path}: no start of a run of this version in it ({error!r}): expected what training writes'
    ) from error


def environment() -> dict[str, Any]:
  """Returns the hardware, the versions of packages and the commit, as values for JSON."""
  device = jax.devices()[0]
  return {
    'backend': jax.default_backend(),
    'device': device.device_kind,
    'devices': jax.device_count(),
    'processes': jax.process_count(),
    'processor': cpu.processor_name(),
    'instruction_sets': cpu.instruction_sets(),
    'cpus': cpu.available_cores(),
    'python': platform.python_version(),
    'jax': jax.__version__,
    'jaxlib': _version('jaxlib'),
    'flax': _version('flax'),
    'optax': _version('optax'),
    'orbax': _version('orbax-checkpoint'),
    'torch': _version('torch'),
    'libtpu': _version('libtpu'),
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
    'cuda_module_loading': os.environ.get('CUDA_MODULE_LOADING', ''),
    'settings': settings.current_settings(),
    'omp_wait_policy': os.environ.get('OMP_WAIT_POLICY', ''),
    'commit': _commit(),
  }


def short_commit(commit: str | None) -> str:
  """Returns a commit of `environment` in as many digits as name it, with its '+'; 'unknown' for None."""
  return commit[:7] + '+' * commit.endswith('+') if commit else 'unknown'


def _version(package: str) -> str | None:
  """The version of a package; None where it is not installed."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


@functools.cache  # of the code that this process runs
def _commit() -> str | None:
  """The commit of this checkout, with '+' where files differ from it; None outside of a checkout."""

  def git(*command: str) -> str:
    return subprocess.run(
      ('git', *command), cwd=os.path.dirname(os.path.abspath(__file__)), capture_output=True, text=True, check=True
    ).stdout.strip()

  try:
    git('ls-files', '--error-unmatch', os.path.basename(__file__))  # an installed copy may lie in another's checkout
    return git('rev-parse', 'HEAD') + ('+' if git('status', '--porcelain', '--untracked-files=no') else '')
  except (OSError, subprocess.CalledProcessError):
    return None
