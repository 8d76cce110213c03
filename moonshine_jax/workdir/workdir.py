"""One run on disk: its folder, and what is in it."""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_collections
import msgspec
from filelock import FileLock, Timeout

from moonshine_jax import config as config_lib
from moonshine_jax.cost import counting
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError, say, shown, warn
from moonshine_jax.models import factory
from moonshine_jax.runtime import files, json_files, trust, user_functions
from moonshine_jax.workdir import metrics, provenance, zoo

if TYPE_CHECKING:
  from moonshine_jax.workdir.checkpoint import Checkpoints
  from moonshine_jax.workdir.metadata import Metadata

CONFIG_FILE = 'config.json'
# Folders in a run's folder that hold the networks it starts from, and the run in which their blocks learnt alone.
START_FOLDER, BLOCKS_FOLDER = 'start', 'blockwise'
AVERAGE_FOLDER = 'ema'  # of the network of the averaged weights
# Folders in the folder of a search that hold the runs in which candidates learn, and the networks that are compared.
CANDIDATES_FOLDER, SOLUTIONS_FOLDER = 'search_candidates', 'search_solutions'
SEARCH_FOLDERS = {CANDIDATES_FOLDER, SOLUTIONS_FOLDER}
LOCK_FILE = '.lock'  # the lock ends with its process, so the file may stay
BLOCKS_LOCK_FILE = '.blocks.lock'  # of a network in START_FOLDER: for the run in which its blocks learn

# What Orbax and what is under it do not take for a name, wherever it is in an absolute path: patterns of files, a
# backslash for a slash, and a folder for a bucket.
NO_NAME = re.compile(r'[*?\[\\\0]|(?<=/)gs:(?=/|$)')


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
    """Returns the workdirs of all runs below a folder, in the order of their paths; without the networks of a run."""
    paths = sorted(path.parent for path in Path(folder).glob(f'**/{CONFIG_FILE}'))
    runs = [path for path in paths if not cls(path)._is_part(set(path.relative_to(folder).parts))]
    return [cls(path) for path in runs if path.name != AVERAGE_FOLDER or path.parent not in runs]

  def _is_part(self, names: set[str]) -> bool:
    """Whether it is a part of another run or of a search, by the names of its folders and its config."""
    if names & SEARCH_FOLDERS:
      return True
    if not names & {START_FOLDER, BLOCKS_FOLDER}:  # names that a user's folder may have, too
      return False
    try:
      config = self.config
    except UserError:
      return False  # told where it is read
    return (BLOCKS_FOLDER in names and config.distill.blockwise) or (START_FOLDER in names and not config.epochs)

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
      config = config_lib.from_json(json_files.parse_json(json_files.read_bytes(path), dict[str, Any]))
    except (ValueError, UserError) as error:
      raise UserError(
        f'{path}: damaged ({error}): expected the config of a run; training writes it anew where it is '
        'deleted, if the checkpoints are of the same config'
      ) from error
    try:
      factory.check_model(config.model, load=False)
    except UserError as error:
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
  def cost(self) -> counting.Cost | None:
    """What the network costs, where the run has recorded it, as of its last start. Raises UserError as `starts`."""
    starts = self.starts
    return msgspec.convert(starts[-1]['cost'], counting.Cost) if starts and 'cost' in starts[-1] else None

  @property
  def step(self) -> int:
    """The step of the newest checkpoint; 0 where there is none."""
    from moonshine_jax.workdir.checkpoint import saved_steps  # Orbax takes seconds

    return max(saved_steps(self.path), default=0)

  def checkpoints(self, create: bool = False) -> 'Checkpoints':
    """Returns the run's checkpoints. Raises UserError where there are none, unless they are to be written."""
    from moonshine_jax.workdir.checkpoint import Checkpoints  # Orbax takes seconds

    return Checkpoints(self.path, create)

  def restore_variables(self, check: Callable[[ml_collections.ConfigDict], None]) -> tuple[dict[str, Any], 'Metadata']:
    """Restores the variables of the newest good checkpoint; see `Checkpoints.restore_variables`."""
    return self.checkpoints().restore_variables(check)

  def check_code(self, name: str, trust_code: bool) -> None:
    """Raises UserError where the workdir names a function that may not be loaded: see `trust.check_function`."""
    if user_functions.is_name(name):
      try:
        trust.check_function(name, self.starts[-1].get('functions', {}) if self.starts else {}, self, trust_code)
      except UserError as error:
        raise UserError(f'{self}: {error}') from error

  def check_path(self) -> None:
    """Raises UserError for a path at which no checkpoint can be kept."""
    if zoo.in_zoo(self):
      raise UserError(f'{self}: names a network that comes with the package, which is read alone: expected a folder')
    files.check_local(self.path)
    path = os.path.abspath(self.path)
    try:
      path.encode()
    except UnicodeEncodeError:
      raise UserError(f'{shown(path)}: no checkpoint can be kept there: expected a path in UTF-8') from None
    if found := NO_NAME.search(path):
      raise UserError(f'{shown(path)}: no checkpoint can be kept there: expected a path without {shown(found[0])}')

  def check(self, config: ml_collections.ConfigDict) -> None:
    """Raises UserError where no run can be kept in the workdir, and where one is in it that cannot go on so.

    That is a run of another config or another loss of the user's, or one under other settings of JAX.
    """
    self.check_path()
    if not self.begun:
      return
    if difference := config_lib.difference(config, self.config):
      raise UserError(
        f'{self} holds a run of another config: {difference}: expected the same config, to go on, or another workdir'
      )
    provenance.check_resumption(self, config)

  def check_data(self, facts: Facts) -> None:
    """Raises UserError where a run of other data than that of these facts is in the workdir."""
    if self.begun and (difference := facts.difference(self.facts)):
      raise UserError(
        f'{self} holds a run of other data: {difference}: expected the same data, to go on, or another workdir'
      )

  @contextmanager
  def lock(self, file: str = LOCK_FILE, wait_for: str = '') -> Iterator[None]:
    """Makes the folder and keeps it for this process. Raises UserError where another process has it.

    Args:
      file: the file that is locked.
      wait_for: what another process does with it; this one then says so, and waits.
    """
    with files.writing(self.path):
      self.path.mkdir(parents=True, exist_ok=True)
      open(self.path / file, 'a', opener=files.open_no_link).close()
    lock = FileLock(self.path / file, fallback_to_soft=False)
    try:
      lock.acquire(blocking=False)
    except Timeout as error:
      if not wait_for:
        raise UserError(f'{self}: another run is training in it: expected one run in a workdir at a time') from error
      say(f'{self}: waits for another run, {wait_for}')
      lock.acquire(poll_interval=1)
    except (OSError, NotImplementedError) as error:  # a file system without locks
      reason = getattr(error, 'strerror', None) or error
      warn(f'{self}: cannot be locked ({reason}): see to it that no other run trains in it')
    try:
      yield
    finally:
      lock.release()

  def begin(self, config: ml_collections.ConfigDict, facts: Facts, step: int) -> None:
    """Writes the config, and records a start of the run at a step. Raises UserError where that cannot be written."""
    self._remember_functions(provenance.functions_of(config))
    provenance.record_start(self.path, config, facts, step)
    self.write_config(config)

  def _remember_functions(self, functions: dict[str, str]) -> None:
    """Remembers the functions of a run that begins or goes on, and warns of what has changed since its last start."""
    recorded = self.starts[-1].get('functions', {}) if self.starts else {}
    changed = {
      trust.source_files(name)[-1] for name in functions if recorded.get(name, functions[name]) != functions[name]
    }
    for path in sorted(changed):
      warn(f'{self}: {path} has changed since the run began')
    try:
      for name in functions:
        trust.remember(name)
    except UserError as error:
      warn(f'{error}: to read {self} takes --trust_code')

  def write_config(self, config: ml_collections.ConfigDict) -> None:
    """Writes the config, which says that a run was begun. Raises UserError where it cannot be written."""
    files.write_atomically(self.path / CONFIG_FILE, json.dumps(config_lib.to_json(config), indent=2) + '\n')
