"""Data sets of encoded images that do not say of themselves what size and how many channels these have."""

import abc
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from moonshine_jax.data.decoded import DecodedSplit, cache_folder
from moonshine_jax.data.decoding import Decoders
from moonshine_jax.data.encoded import Encoded, Examples, SomeExamples, look_at
from moonshine_jax.data.splits import CroppedSplit, Split, check_labels, find_part

LOOKED_AT = 200  # images whose size and colours stand for those of all


class KnownExamples(Examples, Protocol):
  """Examples whose labels are known before their images are read.

  Attributes:
    labels: int32 (examples,).
  """

  labels: np.ndarray

  def identity(self) -> Iterable[Any]:
    """Returns what tells the files of the examples from others, as their sizes and times."""


class EncodedSource(abc.ABC):
  """A data set of encoded images: grey ones, if all that are looked at are grey, or coloured ones.

  Attributes:
    image_shape: (height, width, channels).
    num_classes: number of labels.
    classes: their names; none where they have none.
    remedy: what to do about a damaged image, the end of an error.
  """

  remedy: str

  def __init__(self, name: str, splits: Sequence[str], image_size: int, num_classes: int, classes: tuple[str, ...]):
    """Looks at some training images.

    Args:
      name: of the data set.
      splits: names of all splits.
      image_size: pixels on a side of the crops of images of any size; 0 for images of one size.
      num_classes: number of labels.
      classes: their names.

    Raises:
      UserError: where none of these is an image, or there is a label of no class.
    """
    self.num_classes, self.classes = num_classes, classes
    self._name, self._splits = name, splits
    size, channels = look_at(self.looked_at(), self.remedy, one_size=not image_size)
    self.image_shape: tuple[int, ...] = (*((image_size, image_size) if image_size else size), channels)
    self._decoders = Decoders(name, image_size, channels) if image_size else None

  @abc.abstractmethod
  def looked_at(self) -> list[Encoded]:
    """Returns some training images, for their size and their channels."""

  @abc.abstractmethod
  def encoded(self, split: str) -> KnownExamples:
    """Returns the examples of a whole split. Raises UserError where they cannot be had."""

  def read(self, split: str) -> Split | CroppedSplit:
    """Reads a split or a part of one.

    Raises:
      UserError: where there is no such part, an image cannot be decoded, or has a label of no class.
    """
    part = find_part(self._splits, split, self._name)
    where = f'data set {self._name}, split {part.name!r}'
    whole = self.encoded(part.name)
    within = part.slice(len(whole), self._name)
    check_labels(where, whole.labels, self.num_classes)
    if self._decoders:
      return CroppedSplit(self._decoders, SomeExamples(whole, range(len(whole))[within]), where, self.num_classes)
    decoded = DecodedSplit(cache_folder(), part.name, whole.identity(), self.image_shape)
    images = decoded.read(whole, where, self.num_classes).images
    return Split(images[within], whole.labels[within])  # the labels of now: the same files may be of other classes
