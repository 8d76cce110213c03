"""Checkpoints: the only file that imports Orbax.

A checkpoint holds two trees of arrays, the network's variables and the progress of its training, and as JSON the
config, the facts of the data, and the metrics of the present epoch: enough to rebuild the network from its workdir
alone. It also holds a checksum of each array and of the JSON, since Orbax restores damaged arrays without a word.
"""

import contextlib
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from moonshine_jax import config as config_lib
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError, warn
from moonshine_jax.models import factory
from moonshine_jax.runtime import files
from moonshine_jax.workdir import metadata as metadata_lib
from moonshine_jax.workdir import orbax_noise
from moonshine_jax.workdir.metadata import Metadata, SavedArray
from moonshine_jax.workdir.workdir import Workdir

Tree = dict[str, Any]
FOLDER = 'checkpoints'  # in a workdir
KEPT = 2  # the newest, and one to fall back on
# Of several processes only the first has checkpoints, and waits for no other.
ALONE = ocp.options.MultiprocessingOptions(
  primary_host=0, active_processes={0}, barrier_sync_key_prefix='moonshine_jax'
)
orbax_noise.silence()


class DamagedError(UserError):
  """A checkpoint that is not as it was written."""


def saved_steps(workdir: str | os.PathLike) -> list[int]:
  """Returns the steps of all checkpoints in a workdir, damaged ones too, in order."""
  folder = Path(workdir) / FOLDER
  return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


class Checkpoints:
  """The checkpoints of a workdir, in its folder `checkpoints`, one for each step that was saved."""

  def __init__(self, workdir: str | os.PathLike, create: bool = False):
    """Opens the checkpoints, to write more with `create`; without it, raises UserError where there is none."""
    self._workdir = Path(workdir).absolute()
    self.folder = self._workdir / FOLDER
    self._damaged: set[int] = set()
    Workdir(workdir).check_path()
    if not create and not Path(workdir).is_dir():
      raise UserError(f'{workdir}: no such folder: expected the workdir of a training run')
    if not create and not self.steps:
      raise UserError(f'{workdir}: no checkpoint in it: expected the workdir of a training run')
    with files.writing(self.folder):
      if create:
        files.make_folder(self.folder, inside=self._workdir)
        for path in self.folder.iterdir():
          files.check_inside(path, self.folder)  # whatever is there is deleted once there are newer ones
      self._manager = ocp.CheckpointManager(
        self.folder,
        options=ocp.CheckpointManagerOptions(
          # What a killed save has left goes when the next run starts; whoever reads may do so beside a run that saves.
          max_to_keep=KEPT,
          create=False,
          read_only=not create,
          cleanup_tmp_directories=create,
          multiprocessing_options=ALONE,
        ),
        item_handlers={
          'variables': ocp.StandardCheckpointHandler(multiprocessing_options=ALONE),
          'progress': ocp.StandardCheckpointHandler(multiprocessing_options=ALONE),
          'metadata': ocp.JsonCheckpointHandler(metadata_lib.FILE, multiprocessing_options=ALONE),
        },
      )

  @property
  def steps(self) -> list[int]:
    """The steps of all checkpoints on the disk, in order, without the damaged ones."""
    return [step for step in saved_steps(self._workdir) if step not in self._damaged]

  def go_back(self, step: int) -> None:
    """Deletes the checkpoints after a step, which are to be made again."""
    for later in sorted({*self.steps, *self._damaged}):
      if later > step:
        self._manager.delete(later)
        self._damaged.discard(later)

  def save(
    self,
    step: int,
    trees: dict[str, Tree],
    config: ml_collections.ConfigDict,
    facts: Facts,
    epoch_metrics: dict[str, np.ndarray],
  ) -> None:
    """Writes a checkpoint in the background; it counts once it is whole.

    Args:
      step: training steps done.
      trees: 'variables' and 'progress', of host arrays.
      config: config of the run.
      facts: facts of its data.
      epoch_metrics: see `Metadata`.

    Raises:
      UserError: for an array that is not finite, and where this or an earlier checkpoint cannot be written.
    """
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(trees)}
    for path, array in arrays.items():
      if not np.isfinite(array).all():
        raise UserError(f'step {step}: {path} is not finite, so that no checkpoint is made; {self.newest_good}')
    checks: dict[str, SavedArray] = {
      path: {'shape': list(array.shape), 'crc32': _crc32(array)} for path, array in arrays.items()
    }
    with self._saving():
      self._manager.save(
        step,
        args=ocp.args.Composite(
          **{name: ocp.args.StandardSave(tree) for name, tree in trees.items()},
          metadata=ocp.args.JsonSave(Metadata(step, config, facts, epoch_metrics, checks).to_json()),
        ),
      )

  @property
  def newest_good(self) -> str:
    """Where the newest checkpoint is, if there is any, in words."""
    steps = self.steps
    return f'the newest good checkpoint is {self.folder}/{steps[-1]}' if steps else 'there is no checkpoint yet'

  def wait(self) -> None:
    """Waits for what is being written. Raises UserError where writing failed."""
    with self._saving():
      self._manager.wait_until_finished()
      self._manager.check_for_errors()

  def close(self) -> None:
    """Waits for what is being written, and ends the threads. Raises UserError where writing failed."""
    with self._saving():
      self._manager.close()

  def restore_variables(self, check: Callable[[ml_collections.ConfigDict], None]) -> tuple[Tree, Metadata]:
    """Restores the variables of the newest checkpoint that is not damaged, for the network of its config.

    Args:
      check: called with the config before its network is built; raises where that may not be.

    Returns:
      Host arrays, and what the checkpoint holds beside them.

    Raises:
      UserError: where all checkpoints are damaged.
    """
    while steps := self.steps:
      try:
        metadata = self._metadata(steps[-1])
        check(metadata.config)
        shapes = factory.create_network(metadata.config.model, metadata.facts).shapes(metadata.facts.image_shape)
        return self._trees(metadata, {'variables': shapes})['variables'], metadata
      except DamagedError as error:
        self.set_aside(steps[-1], error)
    raise UserError(f'{self.folder}: no checkpoint in it: expected the workdir of a training run')

  def restore(
    self, step: int, config: ml_collections.ConfigDict, like: dict[str, Tree]
  ) -> tuple[dict[str, Tree], Metadata]:
    """Restores the checkpoint at a step of a run, as host arrays.

    Args:
      step: one of `steps`.
      config: config of the run.
      like: 'variables' and 'progress', with the shapes and dtypes that they should have.

    Raises:
      UserError: where the checkpoint is of another config; DamagedError where it is damaged.
    """
    metadata = self._metadata(step)
    if difference := config_lib.difference(config, metadata.config):
      raise UserError(f'{self.folder}/{step}: a checkpoint of another config: {difference}: expected one of this run')
    return self._trees(metadata, like), metadata

  def set_aside(self, step: int, error: DamagedError) -> None:
    """Goes on without a checkpoint that is damaged, and says so. Raises UserError where no other is left."""
    if not (self.folder / str(step)).exists():
      return  # not damaged: a run that trains in the workdir has deleted it for newer ones
    self._damaged.add(step)
    if not self.steps:
      raise UserError(
        f'{error}: no good checkpoint is left: expected one: bring one back into {self.folder}, or begin '
        'in another workdir'
      ) from error
    warn(f'{error}: going back to checkpoint {self.steps[-1]}')

  def _metadata(self, step: int) -> Metadata:
    with self._reading(step):
      return metadata_lib.read_metadata(self.folder / str(step) / 'metadata' / metadata_lib.FILE, step)

  def _trees(self, metadata: Metadata, like: dict[str, Tree]) -> dict[str, Tree]:
    """The trees of `like` with the arrays of a checkpoint. Orbax restores an array of another shape without a word."""
    where = f'{self.folder}/{metadata.step}'
    expected = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(like)}
    saved = {path for path in metadata.arrays if any(path.startswith(f"['{name}']") for name in like)}
    if unlike := sorted(saved ^ expected.keys()):
      raise UserError(f'{where}: not a checkpoint of its config: they differ in {unlike[0]} and {len(unlike) - 1} more')
    for path, shape in expected.items():
      if (saved_shape := tuple(metadata.arrays[path]['shape'])) != shape:
        raise UserError(f'{where}: {path} has the shape {saved_shape}, and its config asks for {shape}')
    with self._reading(metadata.step):
      abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)
      restored = self._manager.restore(
        metadata.step,
        args=ocp.args.Composite(**{name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()}),
      )
      restored = {name: restored[name] for name in like}
      for path, leaf in zip(expected, jax.tree.leaves(restored), strict=True):
        if _crc32(leaf) != metadata.arrays[path]['crc32']:
          raise ValueError(f'{path} is not what was written')
      return restored

  @contextlib.contextmanager
  def _reading(self, step: int) -> Iterator[None]:
    try:
      yield
    except Exception as error:  # a flipped bit may make Orbax and what is under it raise anything
      raise DamagedError(f'{self.folder}/{step}: damaged ({_in_short(error)})') from error

  @contextlib.contextmanager
  def _saving(self) -> Iterator[None]:
    try:
      yield
    except Exception as error:  # what the disk refuses, raised by whichever of Orbax's threads met it
      reason = _in_short(error)
      raise UserError(f'{self.folder}: a checkpoint cannot be written: {reason}; {self.newest_good}') from error


class NoCheckpoints:
  """The checkpoints in a process that leaves them to the first process: saves nothing."""

  steps = ()
  newest_good = 'the checkpoints are with process 0'

  def save(self, *_: Any) -> None:
    """Saves nothing."""

  def wait(self) -> None:
    """Waits for nothing."""


def _crc32(array: Any) -> int:
  return zlib.crc32(np.asarray(array).tobytes())


def _in_short(error: Exception) -> str:
  """What the system said, where a library has wrapped it, or else the beginning of the message."""
  number = re.search(r"os_error_code='(\d+)'", str(error))
  if number:
    return os.strerror(int(number[1]))
  said = f'{error}' if isinstance(error, UserError | ValueError) else f'{type(error).__name__}: {error}'
  return (getattr(error, 'strerror', None) or said)[:200]
