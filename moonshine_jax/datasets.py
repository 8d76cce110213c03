"""Image classification data by name: TFDS's data sets without TensorFlow, the embedded `digits`, and a user's own.

A data set of images of one size is read whole into uint8 arrays. TFDS's are decoded once and kept beside the prepared
data, since decoding takes ten times as long as reading the arrays. One of images of any size, ImageNet's, is never in
memory: its images are decoded and cropped whenever they are asked for.
"""

import dataclasses
import hashlib
import importlib.util
import os
import re
import socket
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import ml_collections
import numpy as np

from moonshine_jax.decoding import Decoders
from moonshine_jax.errors import UserError, warn
from moonshine_jax.runtime import files, user_functions

SPLITS = "{'train': (images, labels), 'test': (images, labels)}"  # what a user's own function returns
MAX_CLASSES = 10**6  # of a user's own data: above any that was published
CHUNK = 1000  # examples decoded at a time: TFDS is twice as fast by batches as one by one
SAMPLE = 2000  # training images by which the channels of images of any size are measured


@dataclasses.dataclass(frozen=True)
class Split:
  """images: uint8 (examples, height, width, channels), perhaps memory-mapped; labels: int32 (examples,)."""

  images: np.ndarray
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.labels)

  def take(self, index: np.ndarray, key: tuple[int, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Images (..., height, width, channels) and labels (...) at indices of any shape; `key` is for `CroppedSplit`."""
    del key
    flat = index.ravel()
    ranks = np.argsort(flat)  # read in the order of the memory map, then put into that of the indices
    images = np.empty((len(flat), *self.images.shape[1:]), np.uint8)
    images[ranks] = self.images[flat[ranks]]
    return images.reshape(*index.shape, *images.shape[1:]), self.labels[index]

  def sample(self) -> np.ndarray:
    """The indices of the examples whose pixels are the data set's channel statistics: all."""
    return np.arange(len(self))


class CroppedSplit:
  """A split whose images are decoded and cropped to one size whenever they are taken."""

  def __init__(self, decoders: Decoders, split: str, examples: int):
    self._decoders = decoders
    self._split = split
    self._examples = examples

  def __len__(self) -> int:
    return self._examples

  def take(self, index: np.ndarray, key: tuple[int, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """As of `Split`: the middle of each image, or with a key the random crop that follows from key and index alone."""
    images, labels = self._decoders.read(self._split, index.ravel(), key)
    if labels.min() < 0:
      raise UserError(f'split {self._split!r}: some examples have no label')
    return images.reshape(*index.shape, *images.shape[1:]), labels.reshape(index.shape)

  def sample(self) -> np.ndarray:
    """Evenly spaced indices, the same each time, where there are more than SAMPLE examples."""
    return np.linspace(0, len(self) - 1, min(SAMPLE, len(self))).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Facts:
  """What a network must know of its data.

  Attributes:
    image_shape: (height, width, channels).
    num_classes: number of labels.
    mean: of the training pixels (of the split's `sample`), for each channel, in the units of uint8.
    std: their standard deviation, likewise.
  """

  image_shape: tuple[int, ...]
  num_classes: int
  mean: tuple[float, ...]
  std: tuple[float, ...]

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, values: dict[str, Any]) -> 'Facts':
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


class Source(Protocol):
  """A data set by name: its shape is known before anything is downloaded, prepared or read."""

  image_shape: tuple[int, ...]
  num_classes: int

  def read(self, split: str) -> Split | CroppedSplit:
    """The whole split. Raises UserError where it cannot be had."""


def open_source(config: ml_collections.ConfigDict) -> Source:
  """The source of `config.data`. Raises UserError for a data set that is unknown or not of images and labels."""
  if config.image_size and (user_functions.is_name(config.name) or config.name == 'digits'):
    raise UserError(
      f'config.data.image_size={config.image_size}: expected 0 for {config.name}, whose images are of one size'
    )
  if user_functions.is_name(config.name):
    return FunctionSource(config.name)
  if config.name == 'digits':
    return DigitsSource()
  return TfdsSource(config.name, config.data_dir or None, config.image_size)


def reopen_source(config: ml_collections.ConfigDict, facts: Facts, where: str | os.PathLike) -> Source:
  """The source of a run's `config.data`, by whose facts its network was made; `where` is the run's workdir.

  Raises UserError as `open_source`, and where the images or the classes are others now.
  """
  source = open_source(config)
  if (source.num_classes, source.image_shape) != (facts.num_classes, facts.image_shape):
    raise UserError(f'{where}: trained on other data than {config.name} is now: {facts}')
  return source


def title(name: str) -> str:
  """What a data set is called in a sentence."""
  return user_functions.short_name(name) if user_functions.is_name(name) else name


def measure(source: Source, train: Split | CroppedSplit) -> Facts:
  """The facts of a data set, its channel statistics those of the training split's sample (exact, from histograms)."""
  channels = source.image_shape[-1]
  counts = np.zeros((channels, 256), np.int64)
  sample = train.sample()
  for start in range(0, len(sample), CHUNK):
    pixels, _ = train.take(sample[start : start + CHUNK])
    for channel in range(channels):
      counts[channel] += np.bincount(pixels[..., channel].ravel(), minlength=256)
  values = np.arange(256)
  mean = counts @ values / counts.sum(axis=1)
  std = np.sqrt(counts @ values**2 / counts.sum(axis=1) - mean**2)
  std[std == 0] = 1.0  # a channel that never changes
  return Facts(tuple(source.image_shape), source.num_classes, tuple(mean.tolist()), tuple(std.tolist()))


class DigitsSource:
  """The UCI handwritten digits that scikit-learn carries: 1,797 images of 8x8 pixels, 10 classes.

  The first 1,297 are for training and the last 500 for the test: the images are in the order in which they were
  collected, so most of the test's writers are not among the training's.
  """

  image_shape = (8, 8, 1)
  num_classes = 10

  def read(self, split: str) -> Split:
    from sklearn.datasets import load_digits  # takes a second to import, which other data sets need not pay

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    return _read(
      {'train': Split(images[:1297], labels[:1297]), 'test': Split(images[1297:], labels[1297:])}, split, 'digits'
    )


class FunctionSource:
  """What a function of a user's returns: {'train': (images, labels), 'test': (images, labels)}, its splits by name.

  Images are uint8 (examples, height, width, channels), all of one size; labels are integers from 0. The classes are
  those up to the greatest label of all splits. The function is called once, here.
  """

  def __init__(self, name: str):
    """Raises UserError, in a line that names the function and the split, for anything else."""
    where = f'config.data.name={name!r}'
    try:
      splits = user_functions.load(name)()
    except UserError as error:
      raise UserError(f'config.data.name={error}') from error
    except Exception as error:  # whatever the user's code raises
      raise UserError(
        f'{where}: {type(error).__name__}: {error}: expected a function that is called without arguments '
        f'and returns {SPLITS}'
      ) from error
    if not isinstance(splits, Mapping) or not splits:
      raise UserError(f'{where}: returned a {type(splits).__name__}: expected {SPLITS}')
    self._name = name
    self._splits = {key: _own_split(f'{where}, split {key!r}', value) for key, value in splits.items()}
    shapes = {key: split.images.shape[1:] for key, split in self._splits.items()}
    if len(set(shapes.values())) > 1:
      raise UserError(
        f'{where}: the images of {" and ".join(f"{key} are {shape}" for key, shape in shapes.items())}: '
        'expected one size'
      )
    self.image_shape = next(iter(shapes.values()))
    self.num_classes = 1 + max(int(split.labels.max()) for split in self._splits.values())

  def read(self, split: str) -> Split:
    return _read(self._splits, split, self._name)


def _read(splits: Mapping[str, Split], split: str, data: str) -> Split:
  """A split by name, or a part of it as TFDS writes one: 'train[:50%]', 'train[100:200]'. Raises UserError."""
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


def _own_split(where: str, value: Any) -> Split:
  """The arrays of a user's split. Raises UserError where they are no images and labels."""
  if not isinstance(value, tuple | list) or len(value) != 2:
    raise UserError(f'{where}: a {type(value).__name__}: expected the two arrays (images, labels)')
  images, labels = (np.asarray(each) for each in value)
  if images.dtype != np.uint8:
    raise UserError(
      f'{where}: images are {images.dtype}: expected uint8, from 0 to 255: they are normalised later, by '
      'the mean and the standard deviation of each channel'
    )
  if images.ndim != 4 or 0 in images.shape:
    raise UserError(f'{where}: images have the shape {images.shape}: expected (examples, height, width, channels)')
  if not np.issubdtype(labels.dtype, np.integer):
    raise UserError(f'{where}: labels are {labels.dtype}: expected integers from 0, one for each image')
  if labels.shape != images.shape[:1]:
    raise UserError(f'{where}: labels have the shape {labels.shape}: expected {images.shape[:1]}, one for each image')
  if not 0 <= labels.min() <= labels.max() < MAX_CLASSES:
    raise UserError(
      f'{where}: labels are from {labels.min()} to {labels.max()}: expected integers from 0 to less than '
      f'{MAX_CLASSES:,}'
    )
  return Split(images, labels.astype(np.int32))


class TfdsSource:
  """A data set of TFDS with features `image` (uint8, 1 or 3 channels) and `label` (a class).

  The images are of one size, or of any, and then cropped to squares of `image_size` pixels. Data prepared as
  `array_record` is read without TensorFlow; only preparing needs it.
  """

  def __init__(self, name: str, data_dir: str | None, image_size: int):
    import tensorflow_datasets as tfds  # takes a second to import

    self._name = name
    try:
      self._builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
      raise UserError(f'config.data.name={name!r}: TFDS knows no such data set, nor is it in {data_dir!r}') from error
    except Exception as error:  # what TFDS makes of names and versions, and of files that are damaged
      raise UserError(f'config.data.name={name!r}: {error}') from error
    features = self._builder.info.features
    features = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = features.get('image'), features.get('label')
    if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel):
      raise UserError(f'config.data.name={name!r}: expected an image classification data set with image and label')
    channels = image.shape[-1]
    if image.np_dtype != np.uint8 or channels not in (1, 3) or (None in image.shape and not image_size):
      raise UserError(
        f'config.data.name={name!r}: images are {image.np_dtype} {image.shape}: expected uint8 of one size '
        'and 1 or 3 channels, or of any size with config.data.image_size, the pixels on a side of their crops'
      )
    self.image_shape = (image_size, image_size, channels) if image_size else tuple(image.shape)
    self._cropped = image_size > 0
    self._decoders: Decoders | None = None  # of all splits, once the first is read
    self.num_classes = label.num_classes

  def read(self, split: str) -> Split | CroppedSplit:
    if not self._builder.is_prepared():
      self._prepare()
    try:
      examples = self._builder.as_data_source(split=split)
    except NotImplementedError as error:
      raise UserError(
        f'{self._builder.data_dir}: prepared as {self._builder.info.file_format.value}, which cannot be read without '
        f'TensorFlow: prepare it as array_record (tfds build {self._name} --file_format=array_record)'
      ) from error
    except ValueError as error:  # an unknown split, or one that slices beyond the end
      raise UserError(f'data set {self._name}, split {split!r}: {error}') from error
    if self._cropped:
      self._decoders = self._decoders or Decoders(self._builder.data_dir, self.image_shape[0], self.image_shape[-1])
      return CroppedSplit(self._decoders, split, len(examples))
    paths = self._cache_paths(split)
    if paths[1].exists():
      try:
        return _read_arrays(*paths)
      except Exception as error:  # whatever NumPy and zipfile make of damaged files
        warn(f'{paths[0]}: damaged ({error}): decoding the images again')
    self._decode(examples, split, *paths)
    return _read_arrays(*paths)

  def _prepare(self) -> None:
    """Downloads the data set and writes it as array_record."""
    if importlib.util.find_spec('tensorflow') is None:
      raise UserError(
        f'data set {self._name} is not prepared in {self._builder.data_dir}, and preparing it needs TensorFlow: '
        "pip install 'moonshine-jax[prepare]', or set config.data.data_dir to where it is"
      )
    import tensorflow_datasets as tfds

    warn(f'preparing data set {self._name} in {self._builder.data_dir}')
    try:
      self._builder.download_and_prepare(file_format=tfds.core.FileFormat.ARRAY_RECORD)
    except Exception as error:  # whatever the network, the disk and the data set's own script raise
      raise UserError(f'data set {self._name} cannot be prepared in {self._builder.data_dir}: {error!r}') from error

  def _cache_paths(self, split: str) -> tuple[Path, Path]:
    """The arrays of a split, named after the files that they were decoded from: newly prepared data is new."""
    identity = [str(self._builder.data_dir), split, *self.image_shape]
    for each in self._builder.info.splits.values():
      for path in each.filepaths:
        try:
          status = os.stat(path)
        except OSError as error:
          raise UserError(f'{path}: {error.strerror}: prepare the data set anew') from error
        identity += [os.path.basename(path), status.st_size, status.st_mtime_ns]
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    folder = Path(self._builder.data_dir) / 'decoded'
    if not os.access(self._builder.data_dir, os.W_OK):  # shared data that only others may write
      folder = Path.home() / '.cache' / 'moonshine_jax'
    stem = f'{re.sub("[^a-z0-9]+", "-", split.lower())}-{digest}'
    return folder / f'{stem}.images.npy', folder / f'{stem}.labels.npz'

  def _decode(self, examples: Any, split: str, images_path: Path, labels_path: Path) -> None:
    """Writes the arrays, each whole or not at all; the labels last, since they stand for both."""
    warn(f'decoding {len(examples)} images of {split}, once, into {images_path}')
    labels = np.empty(len(examples), np.int32)
    crc32 = 0
    # Of this process alone: others, on other machines too, may decode into the same folder.
    partial = images_path.with_name(f'{images_path.name}.{socket.gethostname()}.{os.getpid()}.tmp')
    with files.writing(images_path):
      images_path.parent.mkdir(parents=True, exist_ok=True)
      try:
        with open(partial, 'wb') as file:  # not a memory map: on a full disk writing to one kills the process
          np.lib.format.write_array_header_1_0(
            file,
            {
              'descr': np.lib.format.dtype_to_descr(np.dtype(np.uint8)),
              'fortran_order': False,
              'shape': (len(examples), *self.image_shape),
            },
          )
          for start in range(0, len(examples), CHUNK):
            chunk = self._read_chunk(examples, split, start)
            images = np.stack([example['image'] for example in chunk])
            file.write(images.tobytes())
            crc32 = zlib.crc32(images, crc32)
            labels[start : start + CHUNK] = [example['label'] for example in chunk]
        if labels.min() < 0:
          raise UserError(f'data set {self._name}, split {split!r}: some examples have no label')
        os.replace(partial, images_path)
        with open(partial, 'wb') as file:
          np.savez(file, labels=labels, images_crc32=crc32)
        os.replace(partial, labels_path)
      finally:
        partial.unlink(missing_ok=True)

  def _read_chunk(self, examples: Any, split: str, start: int) -> list[dict[str, Any]]:
    try:
      return examples.__getitems__(range(start, min(start + CHUNK, len(examples))))
    except Exception as error:  # what array_record and the decoder of images make of damaged files
      reason = ' '.join(str(error).split())[:200]
      raise UserError(
        f'{self._builder.data_dir}: split {split!r} cannot be read ({reason}): its files are damaged: '
        'prepare the data set anew'
      ) from error


def _read_arrays(images_path: Path, labels_path: Path) -> Split:
  """A split from its files. Raises whatever shows that they are not as they were written."""
  with np.load(labels_path) as file:
    labels, crc32 = file['labels'], int(file['images_crc32'])
  images = np.load(images_path, mmap_mode='r')
  if len(images) != len(labels) or zlib.crc32(images) != crc32:
    raise ValueError('the images are not those that were written')
  return Split(images, labels)
