"""Checkpoints: the only file that imports Orbax.

A checkpoint holds the network's variables, what else training needs to go on, and as JSON the config, the facts of the
data, and the metrics of the epoch that it is in: enough to rebuild the network from its workdir alone. It also holds a
checksum of each array and of the JSON, since Orbax restores what was damaged without a word.
"""

import contextlib
import dataclasses
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from moonshine_jax import config as config_lib
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError, warn
from moonshine_jax.models.factory import create_network
from moonshine_jax.models.network import Network
from moonshine_jax.runtime import files
from moonshine_jax.training.step import TrainState
from moonshine_jax.workdir import workdir as workdir_lib

KEPT = 2  # the newest, and one to fall back on
# Of several processes only the first has checkpoints, and waits for no other.
ALONE = ocp.options.MultiprocessingOptions(
  primary_host=0, active_processes={0}, barrier_sync_key_prefix='moonshine_jax'
)


class DamagedError(UserError):
  """A checkpoint that is not as it was written."""


@dataclasses.dataclass(frozen=True)
class Metadata:
  """What a checkpoint holds beside its arrays.

  Attributes:
    step: steps done.
    config: of the run.
    facts: of its data.
    epoch_metrics: float32 (steps,) by name: those of the steps of an epoch whose record is not written yet.
    arrays: the shape and the CRC-32 of each array, by its path in the tree.
  """

  step: int
  config: ml_collections.ConfigDict
  facts: Facts
  epoch_metrics: dict[str, np.ndarray]
  arrays: dict[str, dict[str, Any]]

  @property
  def network(self) -> Network:
    """The network, rebuilt from the config."""
    return create_network(self.config.model, self.facts)


class Checkpoints:
  """The checkpoints of a workdir, in its folder `checkpoints`, one a step."""

  def __init__(self, workdir: str | os.PathLike, create: bool = False):
    """Raises UserError where there is no checkpoint and none is to be made."""
    self.folder = Path(workdir).absolute() / 'checkpoints'
    self._damaged: set[int] = set()
    if not create and not Path(workdir).is_dir():
      raise UserError(f'{workdir}: no such folder: expected the workdir of a training run')
    if not create and not self.steps:
      raise UserError(f'{workdir}: no checkpoint in it: expected the workdir of a training run')
    with files.writing(self.folder):
      if create:
        self.folder.mkdir(exist_ok=True)
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
          'metadata': ocp.JsonCheckpointHandler(multiprocessing_options=ALONE),
        },
      )

  @property
  def steps(self) -> list[int]:
    """The steps of all checkpoints on the disk, in order, without those that were found damaged."""
    if not self.folder.is_dir():
      return []
    steps = {int(path.name) for path in self.folder.iterdir() if path.name.isdigit()}
    return sorted(steps - self._damaged)

  def go_back(self, step: int) -> None:
    """Deletes the checkpoints after a step, which are to be made again."""
    for later in sorted({*self.steps, *self._damaged}):
      if later > step:
        self._manager.delete(later)
        self._damaged.discard(later)

  def save(
    self, state: TrainState, config: ml_collections.ConfigDict, facts: Facts, epoch_metrics: dict[str, np.ndarray]
  ) -> None:
    """Writes a checkpoint of host arrays in the background; it counts once it is whole.

    Raises UserError for a state that is not finite, and where this or an earlier checkpoint cannot be written.
    """
    items = {'variables': state.variables, 'progress': _progress(state)}
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(items)}
    for path, array in arrays.items():
      if not np.isfinite(array).all():
        raise UserError(f'step {state.step}: {path} is not finite, so that no checkpoint is made; {self.newest_good}')
    metadata = {
      'config': config_lib.to_json(config),
      'data': facts.to_json(),
      'epoch_metrics': {name: values.tolist() for name, values in epoch_metrics.items()},
      'arrays': {path: {'shape': list(array.shape), 'crc32': _crc32(array)} for path, array in arrays.items()},
    }
    with self._saving():
      self._manager.save(
        int(state.step),
        args=ocp.args.Composite(
          **{name: ocp.args.StandardSave(item) for name, item in items.items()},
          metadata=ocp.args.JsonSave({**metadata, 'crc32': _json_crc32(metadata)}),
        ),
      )

  @property
  def newest_good(self) -> str:
    """In words: where the newest checkpoint is, if there is any."""
    steps = self.steps
    return f'the newest good checkpoint is {self.folder}/{steps[-1]}' if steps else 'there is no checkpoint yet'

  def wait(self) -> None:
    """Waits for what is being written. Raises UserError where that failed."""
    with self._saving():
      self._manager.wait_until_finished()
      self._manager.check_for_errors()

  def close(self) -> None:
    """Waits likewise, and ends the threads."""
    with self._saving():
      self._manager.close()

  def network(self) -> tuple[Network, Any, Metadata]:
    """The network of the newest checkpoint that is not damaged, rebuilt from its config, and its host arrays.

    Raises UserError where all are damaged.
    """
    while steps := self.steps:
      try:
        metadata = self._metadata(steps[-1])
        network = metadata.network
        like = {'variables': network.shapes(metadata.facts.image_shape)}
        return network, self._arrays(metadata, like)['variables'], metadata
      except DamagedError as error:
        self.set_aside(steps[-1], error)
    raise UserError(f'{self.folder}: no checkpoint in it: expected the workdir of a training run')

  def state(self, step: int, config: ml_collections.ConfigDict, like: TrainState) -> tuple[TrainState, Metadata]:
    """The state at a step, as host arrays; `like` gives its shapes.

    Raises UserError where it is of another config, DamagedError where it is damaged.
    """
    metadata = self._metadata(step)
    if difference := workdir_lib.difference(config, metadata.config):
      raise UserError(f'{self.folder}/{step}: a checkpoint of another config: {difference}: expected one of this run')
    restored = self._arrays(metadata, {'variables': like.variables, 'progress': _progress(like)})
    return like.replace(**restored['variables'], **restored['progress']), metadata

  def set_aside(self, step: int, error: DamagedError) -> None:
    """Goes on without a checkpoint that is damaged, and says so. Raises UserError where no other is left."""
    if not (self.folder / str(step)).exists():
      return  # not damaged: a run that trains beside us had newer ones
    self._damaged.add(step)
    if not self.steps:
      raise UserError(
        f'{error}: no good checkpoint is left: expected one: bring one back into {self.folder}, or begin '
        'in another workdir'
      ) from error
    warn(f'{error}: going back to checkpoint {self.steps[-1]}')

  def _metadata(self, step: int) -> Metadata:
    with self._reading(step):
      values = dict(self._manager.restore(step, args=ocp.args.Composite(metadata=ocp.args.JsonRestore())).metadata)
      if values.pop('crc32') != _json_crc32(values):
        raise ValueError('its metadata are not those that were written')
      return Metadata(
        step,
        config_lib.from_json(values['config']),
        Facts.from_json(values['data']),
        {name: np.asarray(each, np.float32) for name, each in values['epoch_metrics'].items()},
        values['arrays'],
      )

  def _arrays(self, metadata: Metadata, like: dict[str, Any]) -> dict[str, Any]:
    """The items of `like` with the arrays of a checkpoint. Orbax restores an array of another shape without a word."""
    where = f'{self.folder}/{metadata.step}'
    expected = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(like)}
    there = {path for path in metadata.arrays if any(path.startswith(f"['{item}']") for item in like)}
    if unlike := sorted(there ^ expected.keys()):
      raise UserError(f'{where}: not a checkpoint of its config: they differ in {unlike[0]} and {len(unlike) - 1} more')
    for path, shape in expected.items():
      if (found := tuple(metadata.arrays[path]['shape'])) != shape:
        raise UserError(f'{where}: {path} has the shape {found}, and its config asks for {shape}')
    with self._reading(metadata.step):
      abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)
      restored = self._manager.restore(
        metadata.step,
        args=ocp.args.Composite(**{name: ocp.args.StandardRestore(item) for name, item in abstract.items()}),
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
    except Exception as error:  # the disk's, by way of whichever of Orbax's threads met it
      reason = _in_short(error)
      raise UserError(f'{self.folder}: a checkpoint cannot be written: {reason}; {self.newest_good}') from error


class NoCheckpoints:
  """Stands for the checkpoints in a process that leaves them to another."""

  steps = ()
  newest_good = 'the checkpoints are with process 0'

  def save(self, *_: Any) -> None:
    """Saves nothing."""

  def wait(self) -> None:
    """Waits for nothing."""


def _progress(state: TrainState) -> dict[str, Any]:
  return {'step': state.step, 'opt_state': state.opt_state, 'rng': state.rng}


def _crc32(array: Any) -> int:
  return zlib.crc32(np.asarray(array).tobytes())


def _json_crc32(values: dict[str, Any]) -> int:
  return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def _in_short(error: Exception) -> str:
  """What the system said, where a library has wrapped it; else the beginning of the message."""
  number = re.search(r"os_error_code='(\d+)'", str(error))
  if number:
    return os.strerror(int(number[1]))
  return (getattr(error, 'strerror', None) or f'{type(error).__name__}: {error}')[:200]
