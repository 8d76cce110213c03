"""Data sets of Parquet files, as the Hugging Face hub has them.

A row has an image, as a struct of its file's bytes or as these bytes, and a label: a number, or a text. Such files are
read from their beginning, and training takes their rows in a random order, so the images are unpacked once.
"""

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moonshine_jax.data.encoded import Encoded
from moonshine_jax.data.encoded_source import LOOKED_AT, EncodedSource
from moonshine_jax.data.names import PathName
from moonshine_jax.data.splits import MAX_CLASSES, MAX_NAME, VALIDATION_NAMES, check_labels
from moonshine_jax.data.unpacked import UnpackedExamples, unpack
from moonshine_jax.errors import UserError, shown, warn_once
from moonshine_jax.runtime import json_files

IMAGES = 'image', 'img'  # what columns are called, where the schema does not say which holds what
LABELS = 'label', 'labels', 'fine_label'
BATCH = 64  # rows that are read at a time


class Columns(NamedTuple):
  """The columns of a data set.

  Attributes:
    image: name of the images' column.
    label: name of the labels' column.
    names: of the classes, where the schema says them.
  """

  image: str
  label: str
  names: tuple[str, ...]


class ParquetSource(EncodedSource):
  """Parquet files of images and labels: one file, or those in a folder, whose names or folders say the split."""

  remedy = UnpackedExamples.remedy

  def __init__(self, name: PathName, data_dir: str, image_size: int):
    """Reads the schema and the labels, and looks at some of the images.

    Args:
      name: of the form 'parquet:PATH', or 'parquet:PATH?label=COLUMN'.
      data_dir: where a relative path begins.
      image_size: pixels on a side of the crops of images of any size; 0 for images of one size.

    Raises:
      UserError: where there are no such files, or no such columns in them.
    """
    name.check_options(('label',))
    if importlib.util.find_spec('pyarrow') is None:
      raise UserError(f"config.data.name={name.text!r}: needs pyarrow: pip install 'moonshine-jax[parquet]'")
    self._root, self._where = name.find(data_dir), f'config.data.name={name.text!r}'
    self._files = find_files(self._where, self._root)
    self._columns = find_columns(self._where, self._files['train'][0], name.options.get('label'))
    texts = self._read_labels('train')
    numbers = texts.dtype.kind != 'O'
    self.classes = self._columns.names if numbers else tuple(sorted(set(texts)))
    num_classes = len(self.classes) or 1 + max(int(texts.max()), 0)
    super().__init__(name.text, tuple(self._files), image_size, num_classes, self.classes)

  def looked_at(self) -> list[Encoded]:
    """Returns the first training images."""
    for path in self._files['train']:  # the first may have no rows
      if rows := next(_read_rows(self._where, path, self._columns.image, LOOKED_AT), []):
        break
    return [Encoded(image or b'', 0, f'{path}, row {i}') for i, image in enumerate(rows)]

  def encoded(self, split: str) -> UnpackedExamples:
    """Returns the examples of a whole split, unpacked where that was not done. Raises UserError as the class."""
    paths = self._files[split]
    labels = self._read_labels(split)
    where = f'data set {self._name}, split {split!r}'
    if labels.dtype.kind == 'O':
      labels = self._number(where, labels)
    check_labels(where, labels, self.num_classes)
    statuses = [os.stat(path) for path in paths]
    identity = [
      (os.path.realpath(path), status.st_size, status.st_mtime_ns) for path, status in zip(paths, statuses, strict=True)
    ]
    images = (
      image for path in paths for rows in _read_rows(self._where, path, self._columns.image, BATCH) for image in rows
    )
    return unpack(where, split, [*identity, self._columns.image], images, labels)

  def _read_labels(self, split: str) -> np.ndarray:
    """Returns the labels of a split: int64, or texts. Raises UserError where there are none."""
    import pyarrow.types

    labels = []
    for path in self._files[split]:
      with _reading(self._where, path):
        column = _open(path).read(columns=[self._columns.label]).column(0)
      if column.null_count:
        raise UserError(
          f'{self._where}: {path}: {column.null_count:,} of {len(column):,} rows have no {self._columns.label}: '
          'expected a label in each'
        )
      if not pyarrow.types.is_integer(column.type) and not _is_text(column.type):
        raise UserError(
          f'{self._where}: {path}: the column {self._columns.label} is of {column.type}: expected integers or texts'
        )
      labels.append(np.array(column.to_pylist(), object if _is_text(column.type) else np.int64))
      if labels[-1].dtype.kind != 'O' and labels[-1].max(initial=0) >= MAX_CLASSES:
        raise UserError(
          f'{self._where}: {path}: the column {self._columns.label} has {labels[-1].max():,}: expected classes from 0 '
          f'to less than {MAX_CLASSES:,}'
        )
    if not sum(map(len, labels)):
      raise UserError(f'{self._where}: {self._files[split][0]} has no rows: expected images with labels')
    return np.concatenate(labels)

  def _number(self, where: str, texts: np.ndarray) -> np.ndarray:
    """Returns the numbers of labels that are texts. Raises UserError for one that no training image has."""
    numbers = {text: i for i, text in enumerate(self.classes)}
    unknown = [text for text in texts if text not in numbers]
    if unknown:
      raise UserError(
        f'{where}: the label {shown(unknown[0])} is of no training image (the first of {len(unknown):,} such labels, '
        f'of {len(texts):,}): expected those of {len(numbers)} classes'
      )
    return np.array([numbers[text] for text in texts], np.int64)


def find_files(where: str, path: Path) -> dict[str, list[Path]]:
  """Returns the files of each split, in the order of their names.

  Args:
    where: begins an error.
    path: of a file, or of a folder, whose files have the split in their name or in that of a folder:
      'data/train-00000-of-00002.parquet', 'train/0000.parquet'. What names none is for training, and is left out, with
      a warning, where others name train.

  Raises:
    UserError: where there are none to train on, or a split is spread over several folders.
  """
  paths = [path] if path.is_file() else sorted(found for found in path.rglob('*.parquet') if found.is_file())
  splits: dict[str, list[Path]] = {}
  unnamed = []
  for file in paths:
    words = re.findall(
      '[a-z]+', str(file.relative_to(path) if path.is_dir() else file.name).lower().removesuffix('.parquet')
    )
    split = next((word for word in reversed(words) if word in ('train', 'test', *VALIDATION_NAMES)), None)
    if split:
      splits.setdefault(split, []).append(file)
    else:
      unnamed.append(file)
  if unnamed and 'train' in splits:
    warn_once(f'{where}: {unnamed[0]} names no split (the first of {len(unnamed)}): left out beside those of train')
  elif unnamed:
    splits['train'] = unnamed
  if 'train' not in splits:
    raise UserError(f'{where}: {path} has no Parquet files to train on: expected train-*.parquet, or train/*.parquet')
  for split, files in splits.items():
    folders = sorted({str(file.parent) for file in files})
    if len(folders) > 1:
      raise UserError(
        f'{where}: the split {split} is in {folders[0]} and {folders[1]}: expected the path of one of them'
      )
  return splits


def find_columns(where: str, path: Path, label: str | None) -> Columns:
  """Returns which columns hold the images and the labels.

  Args:
    where: begins an error.
    path: of a file.
    label: name of the labels' column; None for the only one that there is.

  Raises:
    UserError: where that cannot be told.
  """
  with _reading(where, path):
    schema = _open(path).schema_arrow
  features = _features(where, path, schema.metadata or {})
  kinds = {name: feature.get('_type') for name, feature in features.items()}
  images = [name for name in schema.names if _is_image(schema.field(name).type)]
  labels = [name for name in schema.names if name in LABELS or kinds.get(name) == 'ClassLabel']
  image = _choose(images, [name for name in images if kinds.get(name) == 'Image'], IMAGES)
  chosen = label if label in schema.names else None if label else _choose(labels, [], LABELS)
  if image is None or chosen is None:
    what = (
      'images, as a struct of bytes or as bytes' if image is None else 'labels, as one named label, or ?label=COLUMN'
    )
    raise UserError(f'{where}: {path} has the columns {", ".join(schema.names)}: expected one of {what}')
  names = features.get(chosen, {}).get('names', [])
  if not isinstance(names, list) or not all(isinstance(name, str) and len(name) <= MAX_NAME for name in names):
    raise UserError(
      f'{where}: {path}: names the classes {shown(names)}: expected texts of at most {MAX_NAME} characters'
    )
  return Columns(image, chosen, tuple(names))


def _choose(columns: list[str], better: list[str], usual: tuple[str, ...]) -> str | None:
  """Returns the column that is meant: the only one, or the first that has a usual name; None where none can be told."""
  for some in (better, columns):
    if len(some) == 1:
      return some[0]
    if named := [name for name in usual if name in some]:
      return named[0]
  return None


def _features(where: str, path: Path, metadata: dict[bytes, bytes]) -> dict[str, dict[str, Any]]:
  """Returns the features by column, as the hub's metadata describe them. Raises UserError for damaged metadata."""
  if b'huggingface' not in metadata:
    return {}
  try:
    features = json_files.parse_json(metadata[b'huggingface'], dict[str, Any])['info']['features']
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(f'{where}: {path}: damaged metadata ({error!r}): expected those of the Hugging Face hub') from error


def _is_image(kind: Any) -> bool:
  """Whether a column's type is a struct of bytes, or bytes."""
  from pyarrow import types

  if types.is_struct(kind):
    return any(field.name == 'bytes' and _is_image(field.type) for field in kind)
  return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_text(kind: Any) -> bool:
  """Whether a column's type is a text, or a dictionary of texts."""
  from pyarrow import types

  return bool(
    types.is_string(kind) or types.is_large_string(kind) or (types.is_dictionary(kind) and _is_text(kind.value_type))
  )


def _read_rows(where: str, path: Path, column: str, rows: int) -> Iterator[list[bytes | None]]:
  """Yields the files of the images of so many rows at a time; None where a row has none."""
  with _reading(where, path):
    for batch in _open(path).iter_batches(rows, columns=[column]):
      rows_read: list[Any] = batch.column(0).to_pylist()
      yield [each['bytes'] if isinstance(each, dict) else each for each in rows_read]


def _open(path: Path) -> Any:
  """Opens a Parquet file."""
  import pyarrow.parquet

  return pyarrow.parquet.ParquetFile(path)


@contextlib.contextmanager
def _reading(where: str, path: Path) -> Iterator[None]:
  """Turns what pyarrow makes of damaged files, while entered, into one line."""
  try:
    yield
  except Exception as error:
    reason = ' '.join(str(error).split())[:200]
    raise UserError(f'{where}: {path}: cannot be read ({reason}): expected a whole Parquet file') from error
