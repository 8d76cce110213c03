"""Checkpoints of networks that were never trained."""

from pathlib import Path

import jax
import ml_collections
import numpy as np

from moonshine_jax.data.splits import Facts
from moonshine_jax.models.factory import create_model
from moonshine_jax.training import step as step_lib
from moonshine_jax.workdir import checkpoint


def save_network(workdir: Path, config: ml_collections.ConfigDict, facts: Facts) -> None:
  """Saves a checkpoint of a network of depth 10 with random numbers in it."""
  config.model.depth = 10
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(
    create_model(config.model, facts.num_classes).init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, *facts.image_shape), np.float32),
  )
  variables = jax.tree.map(lambda leaf: rng.uniform(0.01, 0.1, leaf.shape).astype(np.float32), shapes)
  state = step_lib.TrainState(np.int32(1), **variables, opt_state={}, rng=np.zeros(2, np.uint32))
  checkpoints = checkpoint.Checkpoints(workdir, create=True)
  checkpoints.save(1, state.trees, config, facts, {})
  checkpoints.close()
