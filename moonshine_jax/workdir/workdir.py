"""One run on disk: its folder, and what is in it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_collections
from filelock import FileLock, Timeout

from moonshine_jax import config as config_lib
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError, warn
from moonshine_jax.models import factory
from moonshine_jax.runtime import files, json_files
from moonshine_jax.workdir import metrics, provenance

if TYPE_CHECKING:
  from moonshine_jax.workdir.checkpoint import Checkpoints

CONFIG_FILE = 'config.json'
LOCK_FILE = '.lock'  # the lock ends with its process, so the file may stay


class Workdir(os.PathLike):
  """The folder of one run.

  Attributes:
    path: path of the folder, which need not be there yet.
  """

  def __init__(self, path: str | os.PathLike):
    self.path = Path(path)

  def __fspath__(self) -> str:
    return str(self.path)

  def __str__(self) -> str:
    return str(self.path)

  @classmethod
  def find(cls, folder: str | os.PathLike) -> list['Workdir']:
    """Returns the workdirs of all runs below a folder, in the order of their paths."""
    return [cls(path.parent) for path in sorted(Path(folder).glob(f'**/{CONFIG_FILE}'), key=lambda path: path.parent)]

  @property
  def begun(self) -> bool:
    """Whether a run was begun in it."""
    return (self.path / CONFIG_FILE).exists()

  @property
  def config(self) -> ml_collections.ConfigDict:
    """The run's config. Raises UserError where there is none, or its file is damaged."""
    path = self.path / CONFIG_FILE
    if not self.begun:
      raise UserError(f'{self}: no {CONFIG_FILE} in it: expected the workdir of a training run')
    try:
      config = config_lib.from_json(json_files.parse(json_files.read_bytes(path), dict[str, Any]))
    except (ValueError, UserError) as error:
      raise UserError(
        f'{path}: damaged ({error}): expected the config of a run; training writes it anew where it is '
        'deleted, if the checkpoints are of the same config'
      ) from error
    try:
      factory.check_model(config.model)
    except UserError as error:  # the file is whole, but a user's function is not where it was
      raise UserError(f'{path}: {error}') from error
    return config

  @property
  def records(self) -> list[dict[str, Any]]:
    """The metrics of each epoch, in order. Raises UserError where their file is damaged."""
    return metrics.read(self.path)

  @property
  def starts(self) -> list[dict[str, Any]]:
    """When, how and on what the run was started, for each start. Raises UserError where the file is damaged."""
    return provenance.read_starts(self.path)

  @property
  def facts(self) -> Facts:
    """The facts of the run's data, as of its last start. Raises UserError where it has not begun."""
    return provenance.read_facts(self.path)

  @property
  def step(self) -> int:
    """The step of the newest checkpoint; 0 where there is none."""
    from moonshine_jax.workdir.checkpoint import saved_steps  # Orbax takes seconds

    return max(saved_steps(self.path), default=0)

  def checkpoints(self, create: bool = False) -> 'Checkpoints':
    """Returns the run's checkpoints. Raises UserError where there are none, unless they are to be written."""
    from moonshine_jax.workdir.checkpoint import Checkpoints  # Orbax takes seconds

    return Checkpoints(self.path, create)

  def check(self, config: ml_collections.ConfigDict) -> None:
    """Raises UserError where a run of another config is in the workdir."""
    if self.begun and (difference := config_lib.difference(config, self.config)):
      raise UserError(
        f'{self} holds a run of another config: {difference}: expected the same config, to go on, or another workdir'
      )

  @contextmanager
  def lock(self) -> Iterator[None]:
    """Makes the folder and keeps it for this process. Raises UserError where another process has it."""
    with files.writing(self.path):
      self.path.mkdir(parents=True, exist_ok=True)
      open(self.path / LOCK_FILE, 'a', opener=files.open_no_link).close()
    lock = FileLock(self.path / LOCK_FILE, blocking=False, fallback_to_soft=False)
    try:
      lock.acquire()
    except Timeout as error:
      raise UserError(f'{self}: another run is training in it: expected one run in a workdir at a time') from error
    except (OSError, NotImplementedError) as error:  # a file system without locks
      reason = getattr(error, 'strerror', None) or error
      warn(f'{self}: cannot be locked ({reason}): see to it that no other run trains in it')
    try:
      yield
    finally:
      lock.release()

  def begin(self, config: ml_collections.ConfigDict, facts: Facts, step: int) -> None:
    """Writes the config, and records a start of the run at a step. Raises UserError where that cannot be written."""
    provenance.record_start(self.path, config, facts, step)
    self.write_config(config)

  def write_config(self, config: ml_collections.ConfigDict) -> None:
    """Writes the config, which says that a run was begun. Raises UserError where it cannot be written."""
    files.write_atomically(self.path / CONFIG_FILE, json.dumps(config_lib.to_json(config), indent=2) + '\n')
