"""Images as they lie in files, encoded, and their decoding by all cores, which finds every damaged one."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from moonshine_jax.data.images import is_grey, open_image, reading
from moonshine_jax.errors import UserError
from moonshine_jax.runtime.cpu import available_cores

T = TypeVar('T')

CHUNK = 1000  # examples that are read at a time: TFDS is twice as fast by batches as one by one
TASK = 125  # examples of a chunk that one thread decodes


class Encoded(NamedTuple):
  """An example as it lies in a file.

  Attributes:
    image: the image's file.
    label: number of its class.
    where: what it is called in an error.
    fault: why it cannot be read; empty where it can.
  """

  image: bytes
  label: int
  where: str
  fault: str = ''


class Examples(Protocol):
  """The examples of a split, encoded.

  Attributes:
    remedy: what to do about a damaged one, the end of an error.
  """

  remedy: str

  def __len__(self) -> int: ...

  def reader(self, index: Sequence[int]) -> Callable[[], list[Encoded]]:
    """Returns a function that reads examples by their indices. It is light, and may be pickled to other processes.

    It raises UserError where none of them can be read.
    """


class SomeExamples:
  """Some examples of a split, by their indices in it."""

  def __init__(self, examples: Examples, index: np.ndarray | range):
    self.remedy = examples.remedy
    self._examples, self._index = examples, index

  def __len__(self) -> int:
    return len(self._index)

  def reader(self, index: Sequence[int]) -> Callable[[], list[Encoded]]:
    """Returns a function that reads examples by their indices."""
    return self._examples.reader([int(self._index[i]) for i in index])


class DamagedImagesError(UserError):
  """Images that cannot be decoded.

  Attributes:
    faults: a line for each.
    labels: of all images of the split.
  """

  def __init__(self, faults: Sequence[str], labels: Sequence[int]):
    self.faults, self.labels = list(faults), list(labels)
    others = f' (the first of {len(faults):,} such images, of {len(labels):,})' if len(faults) > 1 else ''
    super().__init__(faults[0] + others)


def decode_chunks(
  examples: Examples, decode: Callable[[bytes, int], np.ndarray], index: Sequence[int], faults: list[str]
) -> Iterator[tuple[list[np.ndarray | None], list[int]]]:
  """Decodes examples in order, on all cores.

  Args:
    examples: of a split.
    decode: makes the pixels of an image's file, which it is called with, and the example's index, in several threads.
    index: the indices of the examples.
    faults: takes up a line for each image that cannot be decoded.

  Yields:
    For CHUNK examples at a time their pixels, None for those that cannot be decoded, and their labels.

  Raises:
    UserError: where a file of many examples cannot be read.
  """

  def decode_one(i: int, example: Encoded) -> tuple[np.ndarray | None, int, str]:
    try:
      return decode_example(example, lambda image: decode(image, i), examples.remedy), example.label, ''
    except UserError as error:
      return None, example.label, str(error)

  def decode_some(some: Sequence[int]) -> list[tuple[np.ndarray | None, int, str]]:
    return [decode_one(i, example) for i, example in zip(some, examples.reader(some)(), strict=True)]

  with ThreadPoolExecutor(available_cores()) as pool:
    for start in range(0, len(index), CHUNK):
      chunk = index[start : start + CHUNK]
      tasks = [chunk[first : first + TASK] for first in range(0, len(chunk), TASK)]
      decoded = list(itertools.chain.from_iterable(pool.map(decode_some, tasks)))
      faults += [fault for _, _, fault in decoded if fault]
      yield [pixels for pixels, _, _ in decoded], [label for _, label, _ in decoded]


def decode_example(example: Encoded, decode: Callable[[bytes], T], remedy: str) -> T:
  """Returns what a function makes of an example's image. Raises UserError, which names the example, for no image."""
  with reading(example.where, remedy):
    if example.fault:
      raise UserError(example.fault)
    if not example.image:
      raise UserError('has no bytes: expected the file of an image')
    return decode(example.image)


def look_at(examples: Sequence[Encoded], remedy: str, one_size: bool) -> tuple[tuple[int, int], int]:
  """Looks at some images of a split, without decoding them, for what a data set does not say.

  Args:
    examples: training images, which stand for all.
    remedy: what to do about a damaged one, the end of an error.
    one_size: whether they have to be of one size.

  Returns:
    Their (height, width), and the channels: 1 where all are grey.

  Raises:
    UserError: where none of them is an image, or they are of several sizes and should be of one.
  """
  sizes: dict[tuple[int, int], list[str]] = {}
  grey, fault = True, None
  for example in examples:
    try:
      height, width, channels = decode_example(example, _look, remedy)
    except UserError as error:
      fault = fault or error
    else:
      sizes.setdefault((height, width), []).append(example.where)
      grey = grey and channels == 1
  if not sizes:
    assert fault
    raise fault
  most, *others = sorted(sizes, key=lambda size: -len(sizes[size]))
  if others and one_size:
    (height, width), (other_height, other_width) = most, others[0]
    raise UserError(
      f'{sizes[others[0]][0]}: an image of {other_height}x{other_width} pixels, where {sizes[most][0]} has '
      f'{height}x{width} ({sum(len(sizes[size]) for size in others)} of {len(examples)} that were looked at are of '
      'another size): expected one size, or config.data.image_size, to which images of any size are cropped'
    )
  return most, 1 if grey else 3


def _look(encoded: bytes) -> tuple[int, int, int]:
  with open_image(encoded) as image:
    return image.height, image.width, 1 if is_grey(image) else 3
