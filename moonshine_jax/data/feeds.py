"""Batches for the devices: two feeds of the same examples in the same order.

* `ResidentFeed`: the whole split as uint8 on every device; a batch is its indices, gathered inside the step.
* `StreamFeed`: a batch is gathered on the host, or decoded there, and copied ahead of the step that takes it.

Of several processes each is given the whole batches, and takes its own part of them.

A step is given `feed.data` and a batch, and calls `feed.gather(data, batch)` for images and labels.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from moonshine_jax.data.splits import CroppedSplit, Split
from moonshine_jax.runtime.devices import Replicas

AHEAD = 2  # batches that are on their way to the device while a step runs


def epoch_batches(key: jax.Array, epoch: int, examples: int, batch_size: int) -> np.ndarray:
  """The indices of an epoch's batches, (steps, batch_size): a permutation by (key, epoch), the remainder dropped."""
  order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), examples))
  steps = examples // batch_size
  return order[: steps * batch_size].reshape(steps, batch_size).astype(np.int32)


def masked_batches(examples: int, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
  """Batches {'index', 'mask'} that hold every example once, in order; the last is filled up under a mask of zeros."""
  for start in range(0, examples, batch_size):
    index = np.arange(start, start + batch_size, dtype=np.int32)
    yield {'index': np.minimum(index, examples - 1), 'mask': (index < examples).astype(np.float32)}


class ResidentFeed:
  """The split on the devices, each image as one row.

  Rows are what a TPU can gather from. From images it would gather after a copy of all of them in another layout, once
  a dispatch: for CIFAR-10, by XLA's estimates for a v5e, 620 MB and the cycles of a whole step of WRN-40-2 G(N/8).
  """

  def __init__(self, split: Split, replicas: Replicas):
    self._image_shape = split.images.shape[1:]
    rows = np.asarray(split.images).reshape(len(split), -1)
    self.data = replicas.replicate({'image': rows, 'label': split.labels})
    self._replicas = replicas

  def batches(self, batches: Iterable[dict[str, np.ndarray]], axis: int = 0) -> Iterator[dict[str, jax.Array]]:
    """Sharded batches for host batches that hold 'index' and anything else of its shape; `axis` is the examples'."""
    return (self._replicas.shard(self._replicas.own_part(batch, axis), axis) for batch in batches)

  def stacks(self, index: np.ndarray, steps: int, key: tuple[int, ...] = ()) -> Iterator[dict[str, jax.Array]]:
    """The batches of indices (all steps, batch), sharded, `steps` of them at a time along a first axis.

    The key is what the random crops of images follow from, where a split has such.
    """
    del key
    return self.batches(({'index': index[start : start + steps]} for start in range(0, len(index), steps)), axis=1)

  def gather(self, data: dict[str, jax.Array], batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Inside the step: {'image': uint8 (batch, height, width, channels), 'label': int32 (batch,), ...}."""
    index = batch['index']
    images = data['image'][index].reshape(*index.shape, *self._image_shape)
    return {**batch, 'image': images, 'label': data['label'][index]}


class StreamFeed:
  """The split on the host."""

  def __init__(self, split: Split | CroppedSplit, replicas: Replicas):
    self.data: dict[str, jax.Array] = replicas.replicate({})
    self._split = split
    self._replicas = replicas

  def batches(
    self, batches: Iterable[dict[str, np.ndarray]], axis: int = 0, key: tuple[int, ...] | None = None
  ) -> Iterator[dict[str, jax.Array]]:
    """As the resident feed's, with the images and labels in them; for evaluation, and so without a key."""

    def load(batch):
      batch = self._replicas.own_part(batch, axis)
      images, labels = self._split.take(batch['index'], key)
      return self._replicas.shard({**batch, 'image': images, 'label': labels}, axis)

    return _ahead(load, batches)

  def stacks(self, index: np.ndarray, steps: int, key: tuple[int, ...] = ()) -> Iterator[dict[str, jax.Array]]:
    """As the resident feed's, but one at a time: what two are ahead is then two batches of images, and no more."""
    del steps
    return self.batches(({'index': each[None]} for each in index), axis=1, key=key)

  @staticmethod
  def gather(data: dict[str, jax.Array], batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Inside the step: the batch holds its images and labels."""
    del data
    return batch


FEEDS = {'resident': ResidentFeed, 'stream': StreamFeed}


def _ahead(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
  """map(function, items), computed up to AHEAD items ahead, on as many threads: one's end is another's beginning."""
  with ThreadPoolExecutor(max_workers=AHEAD) as pool:
    pending: collections.deque = collections.deque()
    for item in items:
      pending.append(pool.submit(function, item))
      if len(pending) > AHEAD:
        yield pending.popleft().result()
    while pending:
      yield pending.popleft().result()
