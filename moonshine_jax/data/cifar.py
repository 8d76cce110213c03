"""CIFAR-10 and CIFAR-100 from the archives that their authors published, packed or unpacked.

Both versions are read: the binary one, and the one for Python, whose pickles are read as data (`array_pickle`). What
was published is told by its MD5. The order of the examples is the archives'.
"""

import hashlib
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moonshine_jax.data.array_pickle import read_pickle
from moonshine_jax.data.arrays import ArraySource
from moonshine_jax.data.names import PathName
from moonshine_jax.errors import UserError, shown

SHAPE = 3, 32, 32  # of an image in the files: channels, height and width
PIXELS = 3 * 32 * 32


class Layout(NamedTuple):
  """A version of a data set as it was published.

  Attributes:
    archive: name of the archive.
    folder: the one that it unpacks to.
    train: names of the training files.
    test: name of the test file.
    meta: name of the file of the classes' names; with {} for the kind of label.
    classes: number of classes by the kind of label, the default first.
    examples: number of training and of test examples.
  """

  archive: str
  folder: str
  train: tuple[str, ...]
  test: str
  meta: str
  classes: dict[str, int]
  examples: tuple[int, int] = (50_000, 10_000)

  @property
  def binary(self) -> bool:
    """Whether it is the binary version."""
    return self.test.endswith('.bin')


BATCHES = tuple(f'data_batch_{i}' for i in range(1, 6))
LAYOUTS = (
  Layout('cifar-10-python.tar.gz', 'cifar-10-batches-py', BATCHES, 'test_batch', 'batches.meta', {'': 10}),
  Layout(
    'cifar-10-binary.tar.gz',
    'cifar-10-batches-bin',
    tuple(f'{name}.bin' for name in BATCHES),
    'test_batch.bin',
    'batches.meta.txt',
    {'': 10},
  ),
  Layout('cifar-100-python.tar.gz', 'cifar-100-python', ('train',), 'test', 'meta', {'fine': 100, 'coarse': 20}),
  Layout(
    'cifar-100-binary.tar.gz',
    'cifar-100-binary',
    ('train.bin',),
    'test.bin',
    '{}_label_names.txt',
    {'fine': 100, 'coarse': 20},
  ),
)

# The published MD5 of the archives, and of the files of the versions for Python, by the names of archive or folder and
# file. Of the files of the binary versions none were published: their sizes and their numbers of labels are checked.
PUBLISHED_MD5 = {
  'cifar-10-python.tar.gz': 'c58f30108f718f92721af3b95e74349a',
  'cifar-10-binary.tar.gz': 'c32a1d4ab5d03f1284b67883e8d87530',
  'cifar-100-python.tar.gz': 'eb9058c3a382ffc7106e4002c42a8d85',
  'cifar-100-binary.tar.gz': '03b5dce01913d631647c71ecec9e9cb8',
  'cifar-10-batches-py/data_batch_1': 'c99cafc152244af753f735de768cd75f',
  'cifar-10-batches-py/data_batch_2': 'd4bba439e000b95fd0a9bffe97cbabec',
  'cifar-10-batches-py/data_batch_3': '54ebc095f3ab1f0389bbae665268c751',
  'cifar-10-batches-py/data_batch_4': '634d18415352ddfa80567beed471001a',
  'cifar-10-batches-py/data_batch_5': '482c414d41f54cd18b22e5b47cb7c3cb',
  'cifar-10-batches-py/test_batch': '40351d587109b95175f43aff81a1287e',
  'cifar-10-batches-py/batches.meta': '5ff9c542aee3614f3951f8cda6e48888',
  'cifar-100-python/train': '16019d7e3df5f24257cddd939b257f8d',
  'cifar-100-python/test': 'f0ef6b0ae62326f3e7ffdfab6717acfc',
  'cifar-100-python/meta': '7973b15100ade9c7d40fb424638fde48',
}


class CifarSource(ArraySource):
  """CIFAR-10 or CIFAR-100 of an archive, or of the folder that it unpacks to."""

  def __init__(self, name: PathName, data_dir: str):
    """Reads the archive.

    Args:
      name: of the form 'cifar:PATH', of CIFAR-100 with '?label=coarse' for its 20 classes.
      data_dir: where a relative path begins.

    Raises:
      UserError: for anything but what was published.
    """
    name.check_options(('label',))
    path = name.find(data_dir)
    where = f'config.data.name={name.text!r}'
    try:
      layout, files = _read_files(path)
      kind = name.options.get('label', next(iter(layout.classes)))
      if kind not in layout.classes:
        expected = ' or '.join(f'?label={kind}' for kind in layout.classes if kind) or 'none, of CIFAR-10'
        raise UserError(f'no labels {kind!r}: expected {expected}')
      train = [_read_batch(layout, files, each, kind) for each in layout.train]
      splits = {
        'train': tuple(np.concatenate(arrays) for arrays in zip(*train, strict=True)),
        'test': _read_batch(layout, files, layout.test, kind),
      }
      for split, examples in zip(('train', 'test'), layout.examples, strict=True):
        _check_labels(split, splits[split][1], examples, layout.classes[kind])
      classes = _class_names(layout, files, kind)
    except UserError as error:
      raise UserError(f'{where}: {error}') from error
    super().__init__(name.text, splits, layout.classes[kind], classes)


def _read_files(path: Path) -> tuple[Layout, dict[str, bytes]]:
  """Returns which version is at a path, and the contents of its files by their names. Raises UserError for another."""
  if path.is_file():
    return _read_archive(path)
  found = [(layout, folder) for layout in LAYOUTS for folder in (path, path / layout.folder) if _holds(folder, layout)]
  archives = [path / layout.archive for layout in LAYOUTS if (path / layout.archive).is_file()]
  if not found and len(archives) == 1:
    return _read_archive(archives[0])
  if len(found) != 1:
    several = [str(folder) for _, folder in found] or list(map(str, archives))
    raise UserError(
      f'holds {" and ".join(several) or "no version of CIFAR"}: expected the path of one of {_archives()}'
    )
  ((layout, folder),) = found
  return layout, {
    name: _checked(f'{layout.folder}/{name}', folder / name, (folder / name).read_bytes()) for name in _names(layout)
  }


def _read_archive(path: Path) -> tuple[Layout, dict[str, bytes]]:
  """Returns the version of an archive, and its files, which are read and not unpacked. Raises UserError for another."""
  with open(path, 'rb') as file:
    md5 = hashlib.file_digest(file, 'md5').hexdigest()
  layout = next((layout for layout in LAYOUTS if PUBLISHED_MD5[layout.archive] == md5), None)
  if layout is None:
    raise UserError(f'{path} has the MD5 {md5}, as none that was published: expected one of {_archives()}, whole')
  wanted = {f'{layout.folder}/{name}': name for name in _names(layout)}
  with tarfile.open(path) as archive:
    files = {
      wanted[member.name]: content.read()
      for member in archive
      if member.name in wanted and member.isreg() and (content := archive.extractfile(member))
    }
  if missing := sorted(set(_names(layout)) - files.keys()):
    raise UserError(f'{path}: has no {missing[0]}: expected {layout.archive} as it was published')
  return layout, files


def _archives() -> str:
  return ', '.join(f'{layout.archive} (or {layout.folder}/)' for layout in LAYOUTS)


def _names(layout: Layout) -> list[str]:
  """The files of a version."""
  return list(dict.fromkeys([*layout.train, layout.test, *(layout.meta.format(kind) for kind in layout.classes)]))


def _holds(folder: Path, layout: Layout) -> bool:
  """Whether a folder holds the files of a version, which is unpacked."""
  return all((folder / name).is_file() for name in _names(layout))


def _checked(name: str, path: Path, content: bytes) -> bytes:
  """Returns the content of a file. Raises UserError where its MD5 is not the published one, if there is one."""
  md5, expected = hashlib.md5(content).hexdigest(), PUBLISHED_MD5.get(name)
  if expected not in (None, md5):
    raise UserError(f'{path} has the MD5 {md5}: expected {expected}, as it was published: download it anew')
  return content


def _read_batch(layout: Layout, files: Mapping[str, bytes], name: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns the images (n, 32, 32, 3) and the labels of a file. Raises UserError where it is none of CIFAR."""
  kinds = len(layout.classes)
  pixels: Any
  if layout.binary:
    rows, rest = divmod(len(files[name]), kinds + PIXELS)
    if rest:
      raise UserError(f'{name} has {len(files[name])} bytes: expected a multiple of {kinds + PIXELS}')
    table = np.frombuffer(files[name], np.uint8).reshape(rows, kinds + PIXELS)
    # CIFAR-100 has the coarse label before the fine one.
    labels, pixels = table[:, kinds - 1 if kind != 'coarse' else 0], table[:, kinds:]
  else:
    batch = read_pickle(name, files[name])
    pixels, labels = batch.get('data'), _as_labels(batch.get(f'{kind}_labels' if kind else 'labels'))
    if not isinstance(pixels, np.ndarray) or pixels.shape != (len(labels), PIXELS):
      raise UserError(f'{name}: has no images with as many labels: expected a batch of CIFAR')
  return np.ascontiguousarray(pixels.reshape(-1, *SHAPE).transpose(0, 2, 3, 1)), labels.astype(np.int32)


def _as_labels(listed: Any) -> np.ndarray:
  """Returns the labels that a pickle lists; none where it lists none."""
  good = isinstance(listed, list) and all(type(label) is int and 0 <= label < 256 for label in listed)
  return np.array(listed if good else [], np.uint8)


def _check_labels(split: str, labels: np.ndarray, examples: int, num_classes: int) -> None:
  """Raises UserError where a split has not as many examples of each class as were published."""
  counts = np.bincount(labels, minlength=num_classes)
  if (counts != examples // num_classes).any():
    wrong = int(np.argmax(counts != examples // num_classes))
    raise UserError(
      f'the {split} split has {counts[wrong]} examples of class {wrong}: expected {examples // num_classes} of each of '
      f'{num_classes} classes, as were published'
    )


def _class_names(layout: Layout, files: Mapping[str, bytes], kind: str) -> tuple[str, ...]:
  """Returns the names of the classes. Raises UserError where there are not as many."""
  name = layout.meta.format(kind)
  names: Any
  if layout.binary:
    names = files[name].decode('utf-8', 'replace').split()
  else:
    names = read_pickle(name, files[name]).get(f'{kind}_label_names' if kind else 'label_names')
  if not isinstance(names, list) or [type(each) for each in names] != [str] * layout.classes[kind]:
    raise UserError(f'{name}: {shown(names)}: expected the names of {layout.classes[kind]} classes')
  return tuple(names)
