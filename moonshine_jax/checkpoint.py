"""Checkpoints: the only file that imports Orbax.

A checkpoint holds the network's variables, what else training needs to go on, and the config and the facts of the data
as JSON: enough to rebuild the network from its workdir alone.
"""

import os
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp

from moonshine_jax import config as config_lib
from moonshine_jax.datasets import Facts
from moonshine_jax.errors import UserError
from moonshine_jax.models import create_model
from moonshine_jax.steps import Network, TrainState

KEPT = 2  # the newest, and one to fall back on


class Checkpoints:
  """The checkpoints of a workdir, in its folder `checkpoints`, one a step."""

  def __init__(self, workdir: str | os.PathLike, create: bool = False):
    """Raises UserError where there is no checkpoint and none is to be made."""
    self.folder = Path(workdir).absolute() / 'checkpoints'
    if not create and not Path(workdir).is_dir():
      raise UserError(f'{workdir}: no such folder: expected the workdir of a training run')
    if create or self.folder.is_dir():
      self._manager = ocp.CheckpointManager(
        self.folder,
        options=ocp.CheckpointManagerOptions(max_to_keep=KEPT, create=create),
        item_handlers={
          'variables': ocp.StandardCheckpointHandler(),
          'progress': ocp.StandardCheckpointHandler(),
          'metadata': ocp.JsonCheckpointHandler(),
        },
      )
    if not create and (not self.folder.is_dir() or self.newest is None):
      raise UserError(f'{workdir}: no checkpoint in it: expected the workdir of a training run')

  @property
  def steps(self) -> list[int]:
    """The steps of all checkpoints, in order."""
    return sorted(self._manager.all_steps())

  @property
  def newest(self) -> int | None:
    """The step of the newest checkpoint."""
    return self._manager.latest_step()

  def go_back(self, step: int) -> None:
    """Deletes the checkpoints after a step, which are to be made again."""
    for later in self.steps:
      if later > step:
        self._manager.delete(later)

  def save(self, state: TrainState, config: ml_collections.ConfigDict, facts: Facts) -> None:
    """Writes a checkpoint of host arrays in the background; it counts once it is whole."""
    metadata = {'config': config_lib.to_json(config), 'data': facts.to_json()}
    self._manager.save(
      int(state.step),
      args=ocp.args.Composite(
        variables=ocp.args.StandardSave(state.variables),
        progress=ocp.args.StandardSave({'step': state.step, 'opt_state': state.opt_state, 'rng': state.rng}),
        metadata=ocp.args.JsonSave(metadata),
      ),
    )

  def metadata(self) -> tuple[ml_collections.ConfigDict, Facts]:
    """The config and the facts of the data that the newest checkpoint was trained with."""
    values = self._restore(metadata=ocp.args.JsonRestore()).metadata
    return config_lib.from_json(values['config']), Facts.from_json(values['data'])

  def variables(self, like: Any) -> Any:
    """The newest checkpoint's variables, as host arrays; `like` gives their shapes."""
    return self._checked(self._restore(variables=ocp.args.StandardRestore(_abstract(like))).variables, like)

  def network(self) -> tuple[Network, Any]:
    """The network of the newest checkpoint, rebuilt from its config, and its variables as host arrays."""
    config, facts = self.metadata()
    model = create_model(config.model, facts.num_classes)
    image = jax.ShapeDtypeStruct((1, *facts.image_shape), np.float32)
    like = jax.eval_shape(model.init, jax.random.key(0), image)
    return Network(model, facts.mean, facts.std), self.variables(like)

  def state(self, like: TrainState) -> TrainState:
    """The newest checkpoint's state, as host arrays; `like` gives its shapes."""
    progress = {'step': like.step, 'opt_state': like.opt_state, 'rng': like.rng}
    restored = self._restore(
      variables=ocp.args.StandardRestore(_abstract(like.variables)),
      progress=ocp.args.StandardRestore(_abstract(progress)))
    return like.replace(**self._checked(restored.variables, like.variables),
                        **self._checked(restored.progress, progress))

  def close(self) -> None:
    """Waits for what is being written."""
    self._manager.close()

  def _restore(self, **items: Any) -> Any:
    try:
      return self._manager.restore(self.newest, args=ocp.args.Composite(**items))
    except ValueError as error:  # trees of other names
      raise UserError(f'{self.folder}/{self.newest}: not a checkpoint of its config: {str(error)[:200]}') from error

  def _checked(self, tree: Any, like: Any) -> Any:
    """Orbax restores an array of another shape without a word."""
    for (path, found), expected in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(like), strict=True):
      if np.shape(found) != np.shape(expected):
        raise UserError(f'{self.folder}/{self.newest}: {jax.tree_util.keystr(path)} has the shape {np.shape(found)}, '
                        f'and its config asks for {np.shape(expected)}')
    return tree


def _abstract(tree: Any) -> Any:
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
