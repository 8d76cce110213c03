"""Encoded images in one file, one after another, so that each can be read without the others."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moonshine_jax.data import images as images_lib
from moonshine_jax.data.decoded import cache_folder
from moonshine_jax.data.encoded import Encoded
from moonshine_jax.errors import warn
from moonshine_jax.runtime import files


class UnpackedExamples:
  """Examples whose images lie in one file.

  Attributes:
    labels: int32 (examples,).
  """

  remedy = 'expected an image: its file is to be had anew'

  def __init__(self, path: Path, ends: np.ndarray, labels: np.ndarray, where: str):
    """Takes the file.

    Args:
      path: of the file.
      ends: where each image ends in it, int64 (examples,).
      labels: int (examples,).
      where: what the split is called.
    """
    self.labels = labels.astype(np.int32)
    self._path, self._ends, self._where = path, ends, where

  def __len__(self) -> int:
    return len(self.labels)

  def reader(self, index: Sequence[int]) -> Callable[[], list[Encoded]]:
    """Returns a function that reads examples by their indices; see `encoded.Examples`."""
    starts = [int(self._ends[i - 1]) if i else 0 for i in index]
    sizes = [int(self._ends[i]) - start for i, start in zip(index, starts, strict=True)]
    labels = [int(self.labels[i]) for i in index]
    wheres = [f'{self._where}, example {i}' for i in index]
    return functools.partial(_read_spans, str(self._path), list(zip(starts, sizes, labels, wheres, strict=True)))

  def identity(self) -> list[str]:
    """Returns what tells the files of the examples from others: the name follows from what was unpacked."""
    return [str(self._path)]


def _read_spans(path: str, spans: Sequence[tuple[int, int, int, str]]) -> list[Encoded]:
  examples = []
  with images_lib.reading(spans[0][3], UnpackedExamples.remedy), open(path, 'rb') as file:
    for start, size, label, where in spans:
      file.seek(start)
      examples.append(Encoded(file.read(size), label, where))
  return examples


def unpack(
  where: str, split: str, identity: Iterable[Any], images: Iterable[bytes | None], labels: np.ndarray
) -> UnpackedExamples:
  """Unpacks the images of a split into this user's cache, where that was not done.

  Args:
    where: what the split is called.
    split: its name, of which that of the file is made.
    identity: tells what is unpacked from what else may be.
    images: the images' files, None for none; as many as labels.
    labels: int (examples,).

  Raises:
    UserError: where the file cannot be written, and as `images` raises it.
  """
  digest = hashlib.sha256(repr(list(identity)).encode('utf-8', 'surrogateescape')).hexdigest()[:16]
  path = cache_folder() / f'{split}-{digest}.images.bin'
  index = path.with_suffix('.npy')
  ends = _read_ends(path, index, len(labels))
  if ends is None:
    warn(f'unpacking {len(labels)} images of {where}, once, into {path}')
    with files.writing(path):
      path.parent.mkdir(parents=True, exist_ok=True)
    sizes = []
    with files.new_file(path) as file:
      for image in images:
        sizes.append(file.write(image or b''))
    ends = np.cumsum(sizes, dtype=np.int64)
    with files.new_file(index) as file:
      np.save(file, ends)
  return UnpackedExamples(path, ends, labels, where)


def _read_ends(path: Path, index: Path, examples: int) -> np.ndarray | None:
  """Returns where the images end in a file that was unpacked; None where there is none, or it is damaged."""
  try:
    ends = np.load(index, allow_pickle=False)
    good = ends.dtype == np.int64 and ends.shape == (examples,) and (np.diff(ends) >= 0).all()
    return ends if good and ends[-1] == path.stat().st_size else None
  except (OSError, ValueError, EOFError, IndexError):
    return None
