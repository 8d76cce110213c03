"""Describes the programs of training and evaluation for a compiler, for devices that the machine need not have."""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.command import make_config, make_network
from moonshine_jax.data import feeds
from moonshine_jax.data.splits import Split
from moonshine_jax.models.wide_resnet import Architecture
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.training import optimizer
from moonshine_jax.training import step as step_lib

EXAMPLES = 50_000  # of the resident training set


class DescribedReplicas(Replicas):
  """Replicas that describe arrays by shape and dtype, for compilation, and put nothing on a device.

  On one device the descriptions name it: `jit` compiles for the process's own device what nothing says another of.
  """

  def replicate(self, tree: Any) -> Any:
    """Describes a tree of arrays with a copy on each device."""
    return jax.tree.map(lambda x: self._describe(x.shape, x.dtype), tree)

  def shard(self, batch: Any, axis: int = 0) -> Any:
    """Describes a batch that is divided along an axis between the devices."""

    def describe(x):
      shape = (*x.shape[:axis], x.shape[axis] // len(self), *x.shape[axis + 1 :])
      return self._describe(shape, x.dtype)

    return jax.tree.map(describe, batch)

  def _describe(self, shape, dtype):
    if self.axis_name:
      return jax.ShapeDtypeStruct((len(self), *shape), dtype)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.sharding.SingleDeviceSharding(self.devices[0]))


def describe_steps(
  architecture: Architecture, flags: argparse.Namespace, replicas: DescribedReplicas
) -> tuple[Callable[[], jax.stages.Lowered], Callable[[], jax.stages.Lowered]]:
  """Makes functions that lower the train loop and the evaluation step, as `training.loop` has them.

  Args:
    architecture: of the network.
    flags: with `batch`, `image_size` and `dtype`.
    replicas: the devices.

  Returns:
    A function that lowers the loop over the steps of a dispatch, and one that lowers the evaluation step.
  """
  config = make_config(architecture, flags.batch, flags.dtype)
  image_shape = (flags.image_size, flags.image_size, 3)
  network = make_network(config, replicas.axis_name)
  split = Split(np.zeros((EXAMPLES, *image_shape), np.uint8), np.zeros(EXAMPLES, np.int32))
  feed = feeds.ResidentFeed(split, replicas)
  tx = optimizer.create_optimizer(config, EXAMPLES // flags.batch)
  state = replicas.replicate(
    jax.eval_shape(lambda: step_lib.create_train_state(network, image_shape, tx, *jax.random.split(jax.random.key(0))))
  )

  train_step = step_lib.make_train_step([config], [network], None, [tx], feed.gather, replicas)
  train_loop = step_lib.compile_train_loop(train_step, replicas)
  batches = next(feed.epoch(0, 0, flags.batch, steps_per_dispatch=config.steps_per_dispatch))
  eval_step = replicas.compile(step_lib.make_eval_step(network, feed.gather, replicas))
  batch = next(feed.batches(feeds.masked_batches(flags.batch, flags.batch)))
  sums = replicas.replicate(step_lib.NO_EXAMPLES)
  return (
    functools.partial(train_loop.lower, (state,), {}, feed.data, batches),
    functools.partial(eval_step.lower, state.variables, feed.data, batch, sums),
  )
