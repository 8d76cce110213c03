"""Prepared data sets of TFDS, opened so that their files run no code and lead to no other folder.

People send each other such folders. TFDS imports whatever module their descriptions name, and follows their paths.
"""

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from moonshine_jax.data.encoded import Encoded
from moonshine_jax.data.images import PREPARE_ANEW, reading
from moonshine_jax.errors import UserError, shown

OWN_FEATURE = re.compile(r'tensorflow_datasets\.core\.features\.\w+\.\w+')  # the name of a class that TFDS has itself


def open_builder(name: str, data_dir: str | None) -> Any:
  """Opens a data set by name, without downloading anything.

  Args:
    name: as TFDS has it, as 'cifar10' or 'mnist:3.0.1'.
    data_dir: where TFDS looks for its data sets; None for its default.

  Returns:
    TFDS's builder.

  Raises:
    UserError: where its files name a class or a folder of others.
    Exception: whatever TFDS makes of names and versions, and of files that are damaged.
  """
  import tensorflow_datasets as tfds  # takes a second to import

  with _own_features_alone():
    builder = tfds.builder(name, data_dir=data_dir)
  folder = str(builder.data_dir)
  if '..' in Path(os.path.relpath(folder, data_dir or Path(folder).parents[2])).parts:
    raise UserError(f'its configuration is in {folder}: expected a folder in {data_dir or "that of TFDS"}')
  refuse_outside(folder, [path for split in builder.info.splits.values() for path in split.filepaths])
  return builder


@functools.lru_cache
def open_folder(folder: str) -> Any:
  """Opens the data set that TFDS prepared in a folder. Returns TFDS's builder. Raises as `open_builder`."""
  import tensorflow_datasets as tfds

  with _own_features_alone():
    builder = tfds.builder_from_directory(folder)
  refuse_outside(folder, [path for split in builder.info.splits.values() for path in split.filepaths])
  return builder


class PreparedExamples:
  """The examples of a split that TFDS prepared in a folder."""

  remedy = PREPARE_ANEW

  def __init__(self, folder: str | os.PathLike, split: str):
    """Opens a split.

    Args:
      folder: of the data set, of a version of it.
      split: in TFDS's notation.

    Raises:
      NotImplementedError: where it is prepared as another format than array_record.
      ValueError: for an unknown split, or a part beyond its end.
    """
    self._folder, self._split = str(folder), split
    self._examples = len(_open_split(self._folder, split))

  def __len__(self) -> int:
    return self._examples

  def reader(self, index: Sequence[int]) -> Callable[[], list[Encoded]]:
    """Returns a function that reads examples by their indices; see `encoded.Examples`."""
    return functools.partial(_read_examples, self._folder, self._split, index)


def _read_examples(folder: str, split: str, index: Sequence[int]) -> list[Encoded]:
  where = f'{folder}: split {split!r}'
  with reading(where):
    examples = _open_split(folder, split).__getitems__(list(index))
  return [
    Encoded(example['image'], int(example['label']), f'{where}, example {i}')
    for i, example in zip(index, examples, strict=True)
  ]


@functools.lru_cache
def _open_split(folder: str, split: str) -> Any:
  """The examples of a split as TFDS reads them, each with its image as the bytes of the image's file."""
  import tensorflow_datasets as tfds

  return open_folder(folder).as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()})


def refuse_outside(folder: str | os.PathLike, paths: Iterable[str | os.PathLike]) -> None:
  """Raises UserError for a path that leaves a folder, as it is written or through a link.

  Args:
    folder: may be a link itself.
    paths: of files in it, which need not be there.
  """
  for path in paths:
    for resolve in (os.path.abspath, os.path.realpath):
      if not Path(resolve(path)).is_relative_to(resolve(folder)):
        raise UserError(f'{path}: leads to {os.path.realpath(path)}: expected a file in {folder}')


@contextlib.contextmanager
def _own_features_alone() -> Iterator[None]:
  """While entered, TFDS makes features of its own classes alone.

  Class names stand in `features.json` and `dataset_info.json`, in one another and in strings of JSON. All of them come
  to this one function of TFDS, which imports the module of a name that it does not know.
  """
  import tensorflow_datasets as tfds

  features = tfds.features.FeatureConnector
  original = features.__dict__['cls_from_name']

  def cls_from_name(cls: Any, name: str) -> Any:
    if not OWN_FEATURE.fullmatch(name):
      raise UserError(
        f'its files name the feature {shown(name)}, whose module would be imported: expected features of TFDS alone'
      )
    return original.__func__(cls, name)

  features.cls_from_name = classmethod(cls_from_name)
  try:
    yield
  finally:
    features.cls_from_name = original
