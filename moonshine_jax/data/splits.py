"""Splits of a data set and parts of them, and the facts that a network must know of its data."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import numpy as np

from moonshine_jax.data.decoding import Decoders
from moonshine_jax.errors import UserError

CHUNK = 1000  # examples that are decoded at a time: TFDS is twice as fast by batches as one by one
HELD_OUT_SEED = 0  # of what is held out: the same examples in all runs
SAMPLE = 2000  # training images from which the channels' statistics are measured, where images are of any size

# Bounds of `Facts`, beyond any data set's.
MAX_SIDE = 2**16  # pixels, or channels
MAX_CLASSES = 10**7
MAX_PIXEL = 1e6  # a mean, or a standard deviation, in the units of uint8


@dataclasses.dataclass(frozen=True)
class Split:
  """A split whose images are of one size.

  Attributes:
    images: uint8 (examples, height, width, channels), perhaps memory-mapped.
    labels: int32 (examples,).
  """

  images: np.ndarray
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.labels)

  def take(self, index: np.ndarray, key: tuple[int, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Takes examples.

    Args:
      index: the examples' indices, of any shape (...).
      key: not used; see `CroppedSplit.take`.

    Returns:
      The images, uint8 (..., height, width, channels), and the labels, int32 (...).
    """
    del key
    flat = index.ravel()
    ranks = np.argsort(flat)  # images are read in the order of the memory map, then put into that of the indices
    images = np.empty((len(flat), *self.images.shape[1:]), np.uint8)
    images[ranks] = self.images[flat[ranks]]
    return images.reshape(*index.shape, *images.shape[1:]), self.labels[index]

  def sample(self) -> np.ndarray:
    """Returns the indices of the examples from which the channels' statistics are measured: all of them."""
    return np.arange(len(self))

  def select(self, index: np.ndarray) -> 'Split':
    """Returns a split of the examples with the indices (examples,)."""
    return Split(*self.take(index))


class CroppedSplit:
  """A split whose images are of any size: they are decoded and cropped to one size whenever they are taken."""

  def __init__(self, decoders: Decoders, split: str, index: np.ndarray, num_classes: int):
    """Takes the examples of a split with the indices (examples,)."""
    self._decoders = decoders
    self._split = split
    self._index = index
    self._num_classes = num_classes

  def __len__(self) -> int:
    return len(self._index)

  def take(self, index: np.ndarray, key: tuple[int, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Decodes and crops examples.

    Args:
      index: the examples' indices, of any shape (...).
      key: numbers from which an image's random crop follows, together with its index alone; None takes the middle.

    Returns:
      The images, uint8 (..., size, size, channels), and the labels, int32 (...).

    Raises:
      UserError: where an example cannot be read or has no label of a class.
    """
    images, labels = self._decoders.read(self._split, self._index[index.ravel()], key)
    check_labels(f'split {self._split!r}', labels, self._num_classes)
    return images.reshape(*index.shape, *images.shape[1:]), labels.reshape(index.shape)

  def sample(self) -> np.ndarray:
    """Returns the indices of the examples from which the channels' statistics are measured.

    Returns:
      All of them, or SAMPLE evenly spaced ones, the same each time, where there are more.
    """
    return np.linspace(0, len(self) - 1, min(SAMPLE, len(self))).astype(np.int64)

  def select(self, index: np.ndarray) -> 'CroppedSplit':
    """Returns a split of the examples with the indices (examples,)."""
    return CroppedSplit(self._decoders, self._split, self._index[index], self._num_classes)


@dataclasses.dataclass(frozen=True)
class Facts:
  """What a network must know of its data.

  Attributes:
    image_shape: (height, width, channels).
    num_classes: number of labels.
    mean: of the training pixels (of the split's `sample`), for each channel, in the units of uint8.
    std: the standard deviation of these pixels, for each channel, in the units of uint8.
  """

  image_shape: tuple[Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE)], ...]
  num_classes: Annotated[int, msgspec.Meta(ge=1, le=MAX_CLASSES)]
  mean: tuple[Annotated[float, msgspec.Meta(ge=-MAX_PIXEL, le=MAX_PIXEL)], ...]
  std: tuple[Annotated[float, msgspec.Meta(gt=0, le=MAX_PIXEL)], ...]

  def __post_init__(self) -> None:
    """Raises ValueError where the channels of the images and of the statistics differ."""
    if len(self.image_shape) != 3 or {len(self.mean), len(self.std)} - {1, self.image_shape[-1]}:
      raise ValueError(f'images of {self.image_shape} with {len(self.mean)} means and {len(self.std)} deviations')

  def to_json(self) -> dict[str, Any]:
    """Returns the facts as values that JSON has."""
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, values: dict[str, Any]) -> 'Facts':
    """Returns the facts from values that `to_json` gave, through JSON or not. Raises ValueError for others."""
    return msgspec.convert(values, cls)


def hold_out(split: Split | CroppedSplit, share: float) -> tuple[Split, Split] | tuple[CroppedSplit, CroppedSplit]:
  """Divides a split into what is trained on and what is held out, which is drawn at random, the same in all runs.

  Args:
    split: a training split.
    share: of the examples that are held out, above 0.

  Raises:
    UserError: where that is no example.
  """
  number = round(share * len(split))
  if not number:
    raise UserError(f'config.data.held_out={share}: that is none of the {len(split)} training examples')
  drawn = np.random.default_rng(HELD_OUT_SEED).permutation(len(split))
  kept, held_out = np.sort(drawn[number:]), np.sort(drawn[:number])
  return split.select(kept), split.select(held_out)  # type: ignore[return-value]


def check_labels(where: str, labels: np.ndarray, num_classes: int) -> None:
  """Raises UserError, which begins with `where`, for labels that are of no class."""
  if labels.min() < 0:
    raise UserError(f'{where}: some examples have no label')
  if labels.max() >= num_classes:
    raise UserError(f'{where}: a label is {labels.max()}: expected less than {num_classes}, the number of classes')


def read_part(splits: Mapping[str, Split], split: str, data: str) -> Split:
  """Returns a split by name, or a part of it.

  Args:
    splits: all splits, by name.
    split: a name, or a part in TFDS's notation: 'train[:50%]', 'train[100:200]'.
    data: what the data set is called, for the error.

  Raises:
    UserError: where there is no such split or part.
  """
  match = re.fullmatch(r'(.+?)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?', split)
  if not match or match[1] not in splits:
    raise UserError(
      f'data set {data} has no split {split!r}: expected {" or ".join(splits)}, or a part of one, as '
      f'{next(iter(splits))}[:50%]'
    )
  whole = splits[match[1]]
  bounds = [
    bound and (round(int(bound[:-1]) * len(whole) / 100) if bound.endswith('%') else int(bound))
    for bound in match.groups()[1:]
  ]
  part = slice(*bounds)
  if any(abs(bound or 0) > len(whole) for bound in bounds) or not len(whole.labels[part]):
    raise UserError(f'data set {data}, split {split!r}: expected a part of the {len(whole)} examples of {match[1]}')
  return Split(whole.images[part], whole.labels[part])
