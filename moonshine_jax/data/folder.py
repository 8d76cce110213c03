"""Data sets that are folders of image files: PATH/SPLIT/CLASS/..., as for ImageFolder of torchvision and for Keras."""

import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from moonshine_jax.data.encoded import Encoded
from moonshine_jax.data.encoded_source import LOOKED_AT, EncodedSource
from moonshine_jax.data.images import ENDINGS
from moonshine_jax.data.names import PathName
from moonshine_jax.data.splits import VALIDATION_NAMES
from moonshine_jax.errors import UserError, warn_once

LAYOUT = 'PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg (or val), or PATH/CLASS/*.jpg with folder:PATH?test=10%'
REMEDY = 'expected an image: mend the file or remove it'


class FolderExamples:
  """The image files of a split, in the order of the hashes of their names, so that every part is a fair one."""

  remedy = REMEDY

  def __init__(self, root: Path, paths: Sequence[str], labels: np.ndarray):
    """Takes the files.

    Args:
      root: folder of the split.
      paths: of the files, in it.
      labels: int32, of as many.
    """
    self._root, self.paths, self.labels = str(root), paths, labels

  @classmethod
  def shuffled(cls, root: Path, paths: Sequence[str], labels: Sequence[int]) -> 'FolderExamples':
    """Takes the files of a whole split, given in any order."""
    digests = [hashlib.sha256(os.fsencode(path)).digest() for path in paths]
    order = sorted(range(len(paths)), key=digests.__getitem__)
    return cls(root, [paths[i] for i in order], np.array([labels[i] for i in order], np.int32))

  def __len__(self) -> int:
    return len(self.paths)

  def reader(self, index: Sequence[int]) -> Callable[[], list[Encoded]]:
    """Returns a function that reads files by their indices; see `encoded.Examples`."""
    files = [(os.path.join(self._root, self.paths[i]), int(self.labels[i])) for i in index]
    return functools.partial(_read_files, files)

  def identity(self) -> Iterator[tuple[str, int, int]]:
    """Yields what tells the files from others: their names, sizes and times."""
    yield os.path.realpath(self._root), 0, 0
    for path in self.paths:
      try:
        status = os.stat(os.path.join(self._root, path))
      except OSError:  # which reading it tells
        yield path, -1, 0
      else:
        yield path, status.st_size, status.st_mtime_ns


def _read_files(files: Sequence[tuple[str, int]]) -> list[Encoded]:
  return [_read_file(path, label) for path, label in files]


def _read_file(path: str, label: int) -> Encoded:
  try:
    with open(path, 'rb') as file:
      return Encoded(file.read(), label, path)
  except OSError as error:
    return Encoded(b'', label, path, f'cannot be read: {error.strerror}')


class FolderSource(EncodedSource):
  """A folder of image files, whose folders are classes, in the order of their names.

  Splits are the folders `train`, and `test` or what else holds images out; or a share of each class of one folder,
  which follows from the files' names alone: the same on every machine, and hardly another when files are added.
  """

  remedy = REMEDY

  def __init__(self, name: PathName, data_dir: str, image_size: int):
    """Looks for the splits and the classes, and at some of the images.

    Args:
      name: of the form 'folder:PATH', or 'folder:PATH?test=10%'.
      data_dir: where a relative path begins.
      image_size: pixels on a side of the crops of images of any size; 0 for images of one size.

    Raises:
      UserError: where there are no such folders, or no images in a class.
    """
    name.check_options(('test',))
    self._root, self._where = name.find(data_dir), f'config.data.name={name.text!r}'
    self._share = _parse_share(self._where, name.options['test']) if 'test' in name.options else 0.0
    self._folders = self._find_splits()
    self._found: dict[Path, FolderExamples] = {}
    train = self._folders['train']
    self.classes = tuple(sorted(entry.name for entry in _scan(self._where, train) if _is_folder(entry)))
    if not self.classes:
      raise UserError(f'{self._where}: {train} has no folders of classes: expected {LAYOUT}')
    super().__init__(name.text, tuple(self._folders), image_size, len(self.classes), self.classes)

  def looked_at(self) -> list[Encoded]:
    """Returns the first training images."""
    train = self.encoded('train')
    return train.reader(range(min(LOOKED_AT, len(train))))()

  def encoded(self, split: str) -> FolderExamples:
    """Returns the files of a whole split. Raises UserError as the class."""
    root = self._folders[split]
    if root not in self._found:
      self._found[root] = self._find_images(root)
    found = self._found[root]
    if not self._share:
      return found
    chosen = np.flatnonzero(held_out(found.labels, self._share) == (split == 'test'))
    return FolderExamples(root, [found.paths[i] for i in chosen.tolist()], found.labels[chosen])

  def _find_splits(self) -> dict[str, Path]:
    """Returns the folder of each split."""
    if not self._root.is_dir():
      raise UserError(f'{self._where}: {self._root} is no folder: expected {LAYOUT}')
    there = {name: self._root / name for name in ('train', 'test', *VALIDATION_NAMES) if (self._root / name).is_dir()}
    if self._share:
      if 'train' in there:
        raise UserError(
          f'{self._where}: {self._root} has a folder train: expected no ?test=, or the path of that folder'
        )
      return {'train': self._root, 'test': self._root}
    if 'train' not in there:
      raise UserError(f'{self._where}: {self._root} has no folder train: expected {LAYOUT}')
    return there

  def _find_images(self, root: Path) -> FolderExamples:
    """Returns all images of a folder of classes."""
    paths: list[str] = []
    labels: list[int] = []
    number = {name: i for i, name in enumerate(self.classes)}
    loose, empty, loops = [], [], list[str]()
    for entry in sorted(_scan(self._where, root), key=lambda entry: entry.name):
      if not _is_folder(entry):
        loose += [entry.path] * _is_image(entry)
        continue
      if entry.name not in number:
        raise UserError(
          f'{self._where}: {entry.path} is of no class that {self._folders["train"]} has: expected {LAYOUT}'
        )
      found = _walk(self._where, root, entry.path, loops)
      paths += found
      labels += [number[entry.name]] * len(found)
      empty += [entry.path] * (not found)
    if loops:
      raise UserError(
        f'{self._where}: {loops[0]} is a link to a folder that it is in (the first of {len(loops)} such links): '
        'expected folders that end'
      )
    if not paths:
      raise UserError(f'{self._where}: {root} has no images in folders of classes: expected {LAYOUT}')
    if empty:
      message = f'{empty[0]} has no images (the first of {len(empty)} such folders, of {len(number)} classes)'
      if root == self._folders['train']:
        raise UserError(f'{self._where}: {message}: expected some that end in {", ".join(ENDINGS)}, or no such folder')
      warn_once(f'{self._where}: {message}')
    if loose:
      warn_once(
        f'{self._where}: {loose[0]} lies in no class (the first of {len(loose)} such images): they are left out'
      )
    return FolderExamples.shuffled(root, paths, labels)


def held_out(labels: np.ndarray, share: float) -> np.ndarray:
  """Chooses the first examples of each class.

  Args:
    labels: int (examples,), in random order.
    share: of each class, above 0 and below 1.

  Returns:
    bool (examples,): of each class that has two at least one and not all.
  """
  chosen = np.zeros(len(labels), bool)
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    chosen[members[: min(max(1, round(share * len(members))), len(members) - 1)]] = True
  return chosen


def _parse_share(where: str, text: str) -> float:
  match = re.fullmatch(r'(\d+(?:\.\d+)?)%', text)
  share = float(match[1]) / 100 if match else 0
  if not 0 < share < 1:
    raise UserError(f'{where}: ?test={text}: expected a share above 0% and below 100%, as ?test=10%')
  return share


def _scan(where: str, folder: str | Path) -> list[os.DirEntry[str]]:
  """Returns what is in a folder, without what is hidden. Raises UserError where it cannot be read."""
  try:
    with os.scandir(str(folder)) as entries:
      return [entry for entry in entries if not entry.name.startswith('.')]
  except OSError as error:
    raise UserError(f'{where}: {folder}: cannot be read: {error.strerror}: expected a folder of images') from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
  try:
    return entry.is_dir()
  except OSError:  # of a link to itself
    return False


def _is_image(entry: os.DirEntry[str]) -> bool:
  """Whether an entry is a file, or a link that leads nowhere, with the ending of an image."""
  try:
    return entry.name.lower().endswith(ENDINGS) and (entry.is_file() or not os.path.exists(entry.path))
  except OSError:
    return True


def _walk(where: str, root: Path, folder: str, loops: list[str]) -> list[str]:
  """Returns the images in a folder of a class and in those below it, links followed, as paths from the root.

  Links to a folder that they are in are added to `loops`. Raises UserError for a folder that cannot be read.
  """
  found: list[str] = []
  waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [(folder, (_identity(root), _identity(folder)))]
  while waiting:
    path, above = waiting.pop()
    entries = _scan(where, path)
    found += [entry.path for entry in entries if _is_image(entry)]
    for inner in [entry.path for entry in entries if _is_folder(entry)]:
      identity = _identity(inner)
      if identity in above:
        loops.append(inner)
      else:
        waiting.append((inner, (*above, identity)))
  start = len(os.path.join(root, ''))
  return [path[start:] for path in found]


def _identity(folder: str | Path) -> tuple[int, int]:
  status = os.stat(folder)
  return status.st_dev, status.st_ino
