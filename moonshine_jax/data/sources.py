"""Data sets for image classification by name: those of TFDS, `digits`, a user's files, and user-defined functions.

A data set of images of one size is read whole into uint8 arrays. Encoded images are decoded once and kept, since
decoding takes ten times as long as reading the arrays. A data set of images of any size, as ImageNet, is never whole in
memory: its images are decoded and cropped whenever they are asked for.
"""

import hashlib
import os
from typing import Protocol

import ml_collections
import numpy as np

from moonshine_jax.data import names
from moonshine_jax.data.cifar import CifarSource
from moonshine_jax.data.folder import FolderSource
from moonshine_jax.data.npz import NpzSource
from moonshine_jax.data.parquet import ParquetSource
from moonshine_jax.data.splits import CHUNK, CroppedSplit, Facts, Split, hold_out, read_part
from moonshine_jax.data.tfds import TfdsSource
from moonshine_jax.data.user import FunctionSource
from moonshine_jax.errors import UserError, warn_once

FINGERPRINT = 200  # images of a split whose pixels tell it from others


class Source(Protocol):
  """A data set, whose shape is known before anything is downloaded, prepared or read.

  Attributes:
    image_shape: (height, width, channels).
    num_classes: number of labels.
    classes: names of the classes, in the order of their labels; none where they have none.
  """

  image_shape: tuple[int, ...]
  num_classes: int
  classes: tuple[str, ...]

  def read(self, split: str) -> Split | CroppedSplit:
    """Reads a split, downloading and preparing the data set where that is needed.

    Args:
      split: name of a split or of a part of one, in TFDS's notation: 'train', 'train[:50%]', 'train[100:200]'.

    Raises:
      UserError: where the split cannot be had.
    """


def open_source(config: ml_collections.ConfigDict) -> Source:
  """Opens the data set of a config.

  Args:
    config: `config.data`.

  Raises:
    UserError: for a data set that is unknown, or is not of images and labels.
  """
  path_name = names.parse(config.name)
  of_one_size = names.is_function(config.name) or config.name == 'digits'
  if config.image_size and (of_one_size or (path_name and path_name.form in ('cifar', 'npz'))):
    raise UserError(
      f'config.data.image_size={config.image_size}: expected 0 for {config.name}, whose images are of one size'
    )
  if path_name:
    return _open_path(path_name, config)
  if names.is_function(config.name):
    return FunctionSource(config.name)
  if config.name == 'digits':
    return DigitsSource()
  return TfdsSource(config.name, config.data_dir or None, config.image_size)


def _open_path(name: names.PathName, config: ml_collections.ConfigDict) -> Source:
  """Opens data that a user has on a disk."""
  match name.form:
    case 'cifar':
      return CifarSource(name, config.data_dir)
    case 'npz':
      return NpzSource(name, config.data_dir)
    case 'parquet':
      return ParquetSource(name, config.data_dir, config.image_size)
    case _:
      return FolderSource(name, config.data_dir, config.image_size)


def reopen_source(config: ml_collections.ConfigDict, facts: Facts, where: str | os.PathLike) -> Source:
  """Opens the data set of a run again.

  Args:
    config: the run's `config.data`.
    facts: those that the run's network was made for.
    where: the run's workdir, for the error.

  Raises:
    UserError: as `open_source`, and where the images or the classes have changed since.
  """
  source = open_source(config)
  now = Facts(tuple(source.image_shape), source.num_classes, facts.mean, facts.std, tuple(source.classes))
  if difference := now.difference(facts):
    raise UserError(f'{where}: trained on other data than {config.name} is now: {difference}')
  return source


def read_splits(source: Source, config: ml_collections.ConfigDict) -> tuple[Split | CroppedSplit, Split | CroppedSplit]:
  """Reads what a run is trained on, and what it is evaluated on: the test split, or what is held out of training.

  Args:
    source: the data set.
    config: `config.data`.

  Raises:
    UserError: where a split cannot be had.
  """
  train = source.read(config.train_split)
  return hold_out(train, config.held_out) if config.held_out else (train, source.read(config.test_split))


def evaluated_on(config: ml_collections.ConfigDict) -> str:
  """Returns what a run of `config.data` is evaluated on, in a word: 'test' or 'held-out'."""
  return 'held-out' if config.held_out else 'test'


def measure_facts(source: Source, train: Split | CroppedSplit, test: Split | CroppedSplit) -> Facts:
  """Measures the facts of a data set, and says in a line each what of them is doubtful.

  Args:
    source: the data set.
    train: its training split, whose `sample` gives the statistics of the channels, exactly, from histograms.
    test: its test split.
  """
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
  _doubt_pixels(counts)
  if isinstance(train, Split):
    _doubt_classes(train.labels, source.num_classes)
  std[std == 0] = 1.0  # a channel that never changes
  return Facts(
    tuple(source.image_shape),
    source.num_classes,
    tuple(mean.tolist()),
    tuple(std.tolist()),
    tuple(source.classes),
    fingerprint(train),
    fingerprint(test),
  )


def fingerprint(split: Split | CroppedSplit) -> str:
  """Returns what tells a split from others: how many examples it has, and a hash.

  The hash is of the labels and the pixels of up to FINGERPRINT examples, evenly spaced, and where the images are of one
  size of all labels.
  """
  sample = np.linspace(0, len(split) - 1, min(FINGERPRINT, len(split))).astype(np.int64)
  images, labels = split.take(sample)
  if isinstance(split, Split):
    labels = split.labels
  digest = hashlib.sha256(repr(images.shape).encode())
  digest.update(np.ascontiguousarray(images).data)
  digest.update(labels.astype('<i4').tobytes())
  return f'{len(split):,} images of hash {digest.hexdigest()[:16]}'


def _doubt_pixels(counts: np.ndarray) -> None:
  """Warns of training pixels that say nothing, or are of another range, from the histogram of each channel."""
  constant = np.flatnonzero(np.count_nonzero(counts, axis=1) == 1).tolist()
  if len(constant) == len(counts):
    warn_once('the pixels of all training images are equal: there is nothing to learn from')
  elif constant:
    warn_once(
      f'channel {", ".join(map(str, constant))} of {len(counts)} never changes in the training images: '
      'it says nothing of them'
    )
  elif not counts[:, 2:].any():
    warn_once('the pixels of all training images are 0 or 1: expected 0 to 255: were they rounded from 0 to 1?')


def _doubt_classes(labels: np.ndarray, num_classes: int) -> None:
  """Warns of classes without a training example."""
  examples = np.bincount(labels, minlength=num_classes)
  absent = np.flatnonzero(examples == 0).tolist()
  if num_classes - len(absent) == 1:
    warn_once(f'all training images are of class {labels[0]}: there is nothing to learn')
  elif absent == [0]:
    warn_once(
      f'no training image is of class 0, and some are of class {num_classes - 1}: expected labels from 0: from 1, they '
      f'make a network of {num_classes} outputs'
    )
  elif absent:
    warn_once(
      f'{len(absent)} of {num_classes} classes have no training image ({", ".join(map(str, absent[:5]))}'
      f'{", ..." if len(absent) > 5 else ""}): expected labels without gaps: the network has an output for each, and '
      'the released form of KD divides by their number'
    )


class DigitsSource:
  """The UCI handwritten digits that are part of scikit-learn: 1,797 images of 8x8 pixels, 10 classes.

  The first 1,297 are for training and the last 500 for the test: the images are in the order in which they were
  collected, so most of the test's writers are not among the training's.
  """

  image_shape: tuple[int, ...] = (8, 8, 1)
  num_classes = 10
  classes: tuple[str, ...] = tuple('0123456789')

  def read(self, split: str) -> Split:
    """Reads a split, 'train' or 'test', or a part of one. Raises UserError where there is no such part."""
    from sklearn.datasets import load_digits  # takes a second to import, which other data sets need not pay

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    return read_part(
      {'train': Split(images[:1297], labels[:1297]), 'test': Split(images[1297:], labels[1297:])}, split, 'digits'
    )
