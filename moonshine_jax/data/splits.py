"""Splits of a data set and parts of them, and the facts that a network must know of its data."""

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

from moonshine_jax.data.decoding import Decoders
from moonshine_jax.data.encoded import Examples, SomeExamples
from moonshine_jax.errors import UserError

CHUNK = 1000  # examples that are taken at a time, where all of them are looked at
HELD_OUT_SEED = 0  # of what is held out: the same examples in all runs
SAMPLE = 2000  # training images from which the channels' statistics are measured, where images are of any size

# What people call the split for choices. Where there is no test split, it stands for that too.
VALIDATION_NAMES = 'validation', 'val', 'valid', 'dev'

# Bounds of `Facts`, beyond any data set's.
MAX_SIDE = 2**16  # pixels, or channels
MAX_CLASSES = 10**6
MAX_PIXEL = 1e6  # a mean, or a standard deviation, in the units of uint8
MAX_NAME = 255  # characters
NAMED = 10  # classes whose names are told


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
  """A split whose images are of any size: they are decoded and cropped to one size whenever they are taken.

  Attributes:
    examples: the split's, as they are encoded.
  """

  def __init__(self, decoders: Decoders, examples: Examples, where: str, num_classes: int):
    self.examples = examples
    self._decoders = decoders
    self._where = where
    self._num_classes = num_classes

  def __len__(self) -> int:
    return len(self.examples)

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
    images, labels = self._decoders.read(self.examples, index.ravel(), key)
    check_labels(self._where, labels, self._num_classes)
    return images.reshape(*index.shape, *images.shape[1:]), labels.reshape(index.shape)

  def sample(self) -> np.ndarray:
    """Returns the indices of the examples from which the channels' statistics are measured.

    Returns:
      All of them, or SAMPLE evenly spaced ones, the same each time, where there are more.
    """
    return np.linspace(0, len(self) - 1, min(SAMPLE, len(self))).astype(np.int64)

  def select(self, index: np.ndarray) -> 'CroppedSplit':
    """Returns a split of the examples with the indices (examples,)."""
    return CroppedSplit(self._decoders, SomeExamples(self.examples, index), self._where, self._num_classes)


@dataclasses.dataclass(frozen=True)
class Facts:
  """What a network must know of its data.

  Attributes:
    image_shape: (height, width, channels).
    num_classes: number of labels.
    mean: of the training pixels (of the split's `sample`), for each channel, in the units of uint8.
    std: the standard deviation of these pixels, for each channel, in the units of uint8.
    classes: names of the classes, in the order of their labels; none where they have none.
    train: fingerprint of the training split: its size, and a hash of labels and pixels; empty of older runs.
    test: fingerprint of the test split.
  """

  image_shape: tuple[Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE)], ...]
  num_classes: Annotated[int, msgspec.Meta(ge=1, le=MAX_CLASSES)]
  mean: tuple[Annotated[float, msgspec.Meta(ge=-MAX_PIXEL, le=MAX_PIXEL)], ...]
  std: tuple[Annotated[float, msgspec.Meta(gt=0, le=MAX_PIXEL)], ...]
  classes: tuple[Annotated[str, msgspec.Meta(max_length=MAX_NAME)], ...] = ()
  train: Annotated[str, msgspec.Meta(max_length=MAX_NAME)] = ''
  test: Annotated[str, msgspec.Meta(max_length=MAX_NAME)] = ''

  def __post_init__(self) -> None:
    """Raises ValueError where the channels of the images and of the statistics differ, or names are not as many."""
    if len(self.image_shape) != 3 or {len(self.mean), len(self.std)} - {1, self.image_shape[-1]}:
      raise ValueError(f'images of {self.image_shape} with {len(self.mean)} means and {len(self.std)} deviations')
    if len(self.classes) not in (0, self.num_classes):
      raise ValueError(f'{len(self.classes)} names of {self.num_classes} classes')

  def to_json(self) -> dict[str, Any]:
    """Returns the facts as values that JSON has."""
    return dataclasses.asdict(self)

  def describe(self) -> str:
    """Returns the facts in words: the images, the classes and the splits."""
    height, width, channels = self.image_shape
    names = ', '.join(self.classes[:NAMED]) + ', ...' * (len(self.classes) > NAMED)
    classes = f'{self.num_classes} classes' + (f' ({names})' if names else '')
    splits = [f'{name}: {text}' for name, text in (('train', self.train), ('test', self.test)) if text]
    return '; '.join([f'images of {height}x{width}x{channels}', classes, *splits])

  def difference(self, other: 'Facts') -> str:
    """Returns in words what tells this data from other; empty where nothing does, as far as both say it."""
    if self.image_shape != other.image_shape:
      return f'images of {self.image_shape} (there: {other.image_shape})'
    if self.num_classes != other.num_classes:
      return f'{self.num_classes} classes (there: {other.num_classes})'
    for ours, theirs in zip(self.classes, other.classes, strict=False):
      if ours != theirs:
        return f'the class {ours!r} (there: {theirs!r})'
    for name in ('train', 'test'):
      ours, theirs = getattr(self, name), getattr(other, name)
      if ours and theirs and ours != theirs:
        return f'the {name} split has {ours} (there: {theirs})'
    return ''

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
  for wrong, what in ((labels < 0, 'have no label'), (labels >= num_classes, 'have a label of no class')):
    if wrong.any():
      raise UserError(
        f'{where}: {np.sum(wrong):,} of {len(labels):,} examples {what}, the first of them {labels[wrong][0]}: '
        f'expected labels from 0 to {num_classes - 1}, of {num_classes} classes'
      )


class Part(NamedTuple):
  """A split, or a part of it.

  Attributes:
    name: of the split.
    bounds: of the part, as they are written: '50%', '-100', or None where there is none.
  """

  name: str
  bounds: tuple[str | None, str | None]

  def slice(self, examples: int, data: str) -> slice:
    """Returns the slice of a split of so many examples. Raises UserError where it has no such part."""
    start, stop = (_bound(bound, examples) for bound in self.bounds)
    part = slice(start, stop)
    if max(abs(start or 0), abs(stop or 0)) > examples or not range(examples)[part]:
      raise UserError(f'data set {data}, split {self}: expected a part of the {examples} examples of {self.name}')
    return part

  def __str__(self) -> str:
    return repr(self.name + (f'[{":".join(bound or "" for bound in self.bounds)}]' if any(self.bounds) else ''))


def _bound(bound: str | None, examples: int) -> int | None:
  """Returns a bound of a part of so many examples as an index; a percentage is rounded, as TFDS does it."""
  if not bound:
    return None
  return round(int(bound[:-1]) * examples / 100) if bound.endswith('%') else int(bound)


def find_part(splits: Collection[str], split: str, data: str) -> Part:
  """Returns a split by name, or a part of it; a split for choices by any of its names.

  Args:
    splits: names of all splits.
    split: a name, or a part in TFDS's notation: 'train[:50%]', 'train[100:200]'.
    data: what the data set is called, for the error.

  Raises:
    UserError: where there is no such split.
  """
  match = re.fullmatch(r'(.+?)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?', split)
  name = _name_there(splits, match[1]) if match else None
  if not match or name is None:
    raise UserError(
      f'data set {data} has no split {split!r}: expected {" or ".join(splits)}, or a part of one, as '
      f'{next(iter(splits))}[:50%]'
    )
  return Part(name, (match[2], match[3]))


def _name_there(splits: Collection[str], name: str) -> str | None:
  """Returns the name by which splits have one; None where they have none."""
  others = VALIDATION_NAMES if name in ('test', *VALIDATION_NAMES) else ()
  return next((each for each in (name, *others) if each in splits), None)


def read_part(splits: Mapping[str, Split], split: str, data: str) -> Split:
  """Returns a split, or a part of it, as `find_part` finds it. Raises UserError where there is none."""
  part = find_part(splits, split, data)
  whole = splits[part.name]
  within = part.slice(len(whole), data)
  return Split(whole.images[within], whole.labels[within])
