"""Feeds: the batches of a split on the devices, in the order that a seed and an epoch give.

* `ResidentFeed` keeps the whole split as uint8 on every device. A batch is its indices, gathered inside the step.
* `StreamFeed` gathers or decodes a batch on the host and copies it to the devices ahead of the step that takes it.

A step is called with `feed.data` and a batch. Inside it, `feed.gather(data, batch)` gives the images and labels.

In a run of several processes every process makes the same host batches and takes its part of them.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from moonshine_jax.data.splits import CroppedSplit, Split
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.runtime.seeds import split_seed

AHEAD = 2  # batches that are on their way to the devices while a step runs


def epoch_order(seed: int, epoch: int, examples: int, batch_size: int) -> np.ndarray:
  """Returns the order of the examples in a training epoch, a permutation that follows from seed and epoch alone.

  Args:
    seed: `config.seed`.
    epoch: number of the epoch, from 0.
    examples: number of examples in the split.
    batch_size: examples in a batch. The remainder that fills no batch is dropped.

  Returns:
    Indices of the examples, int32 (steps, batch_size).
  """
  _, order_key, _ = split_seed(seed)
  order = np.asarray(jax.random.permutation(jax.random.fold_in(order_key, epoch), examples))
  steps = examples // batch_size
  return order[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)


def masked_batches(examples: int, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
  """Yields host batches that hold every example of a split once, in order.

  Args:
    examples: number of examples in the split.
    batch_size: examples in a batch. The last batch is filled up with examples under a mask of zeros.

  Yields:
    {'index': int32 (batch_size,), 'mask': float32 (batch_size,)}.
  """
  for start in range(0, examples, batch_size):
    index = np.arange(start, start + batch_size, dtype=np.int32)
    yield {'index': np.minimum(index, examples - 1), 'mask': (index < examples).astype(np.float32)}


class ResidentFeed:
  """A feed that keeps the split on the devices, with each image as one row.

  Rows are what a TPU can gather from. From images it would gather after a copy of all of them in another layout, once
  a dispatch: for CIFAR-10, by XLA's estimates for a v5e, 620 MB and the cycles of a whole step of WRN-40-2 G(N/8).

  Attributes:
    data: the split on every device, {'image': uint8 (examples, values of an image), 'label': int32 (examples,)}.
  """

  def __init__(self, split: Split, replicas: Replicas):
    self._image_shape = split.images.shape[1:]
    rows = np.asarray(split.images).reshape(len(split), -1)
    self.data = replicas.replicate({'image': rows, 'label': split.labels})
    self._examples = len(split)
    self._replicas = replicas

  def epoch(
    self, seed: int, epoch: int, batch_size: int, skip: int = 0, steps_per_dispatch: int = 1
  ) -> Iterator[dict[str, jax.Array]]:
    """Returns an iterator over the batches of a training epoch, stacked for each dispatch.

    Args:
      seed: `config.seed`, from which the order of the examples follows.
      epoch: number of the epoch, from 0; the order follows from it too.
      batch_size: examples in the batch of a step, over all devices.
      skip: steps of the epoch that are done already: their batches are left out.
      steps_per_dispatch: steps that are stacked for a dispatch; the last dispatch may have fewer.

    Returns:
      {'index': int32 (steps, batch_size)} for each dispatch, sharded over the devices along the second axis.
    """
    order = epoch_order(seed, epoch, self._examples, batch_size)
    starts = range(skip, len(order), steps_per_dispatch)
    return self.batches(({'index': order[start : start + steps_per_dispatch]} for start in starts), axis=1)

  def batches(self, host_batches: Iterable[dict[str, np.ndarray]], axis: int = 0) -> Iterator[dict[str, jax.Array]]:
    """Returns an iterator over host batches as batches on the devices.

    Args:
      host_batches: hold the examples' 'index', and any other arrays of its shape.
      axis: the axis of examples, along which the batches are sharded over the devices.
    """
    return (self._replicas.shard(self._replicas.process_share(batch, axis), axis) for batch in host_batches)

  def gather(self, data: dict[str, jax.Array], batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Adds the images and labels to a batch, inside the step.

    Args:
      data: the feed's `data`.
      batch: with 'index', int32 (batch,).

    Returns:
      {'image': uint8 (batch, height, width, channels), 'label': int32 (batch,)} and what is in the batch.
    """
    index = batch['index']
    images = data['image'][index].reshape(*index.shape, *self._image_shape)
    return {**batch, 'image': images, 'label': data['label'][index]}


class StreamFeed:
  """A feed that keeps the split on the host and copies each batch to the devices ahead of its step.

  Attributes:
    data: empty: the batches hold their images and labels.
  """

  def __init__(self, split: Split | CroppedSplit, replicas: Replicas):
    self.data: dict[str, jax.Array] = replicas.replicate({})
    self._split = split
    self._replicas = replicas

  def epoch(
    self, seed: int, epoch: int, batch_size: int, skip: int = 0, steps_per_dispatch: int = 1
  ) -> Iterator[dict[str, jax.Array]]:
    """Returns an iterator over the batches of a training epoch, one step for each dispatch.

    Args:
      seed: `config.seed`, from which the order of the examples and their random crops follow.
      epoch: number of the epoch, from 0; the order and the crops follow from it too.
      batch_size: examples in the batch of a step, over all devices.
      skip: steps of the epoch that are done already: their batches are left out.
      steps_per_dispatch: not used. A dispatch has one step: two that are ahead are then two batches of images, and no
        more.

    Returns:
      {'index': int32 (1, batch_size), 'image': uint8 (1, batch_size, height, width, channels), 'label': int32
      (1, batch_size)} for each dispatch, sharded over the devices along the second axis.
    """
    del steps_per_dispatch
    order = epoch_order(seed, epoch, len(self._split), batch_size)
    return self.batches(({'index': index[None]} for index in order[skip:]), axis=1, key=(seed, epoch))

  def batches(
    self, host_batches: Iterable[dict[str, np.ndarray]], axis: int = 0, key: tuple[int, ...] | None = None
  ) -> Iterator[dict[str, jax.Array]]:
    """Returns an iterator over host batches as batches on the devices, with their images and labels in them.

    Args:
      host_batches: hold the examples' 'index', and any other arrays of its shape.
      axis: the axis of examples, along which the batches are sharded over the devices.
      key: numbers that the random crops of images follow from, where the split crops them; None takes the middle of
        each image, as evaluation does.
    """

    def load(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
      batch = self._replicas.process_share(batch, axis)
      images, labels = self._split.take(batch['index'], key)
      return self._replicas.shard({**batch, 'image': images, 'label': labels}, axis)

    return _map_ahead(load, host_batches)

  @staticmethod
  def gather(data: dict[str, jax.Array], batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the batch, inside the step: it holds its images and labels.

    Args:
      data: the feed's `data`, which is empty.
      batch: with 'image' and 'label'.
    """
    del data
    return batch


Feed = ResidentFeed | StreamFeed
# By `config.data.feed`; a resident feed takes no `CroppedSplit`.
FEEDS: dict[str, Callable[[Any, Replicas], Feed]] = {'resident': ResidentFeed, 'stream': StreamFeed}


def _map_ahead(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
  """Maps a function over items in order, up to AHEAD items ahead of the caller.

  It runs on as many threads: while one item is being finished, the next is begun.
  """
  with ThreadPoolExecutor(max_workers=AHEAD) as pool:
    pending: collections.deque = collections.deque()
    for item in items:
      pending.append(pool.submit(function, item))
      if len(pending) > AHEAD:
        yield pending.popleft().result()
    while pending:
      yield pending.popleft().result()
