"""Data sets for image classification by name: those of TFDS, `digits`, and user-defined functions.

A data set of images of one size is read whole into uint8 arrays. Images of TFDS are decoded once and kept beside the
prepared data, since decoding takes ten times as long as reading the arrays. A data set of images of any size, as
ImageNet, is never whole in memory: its images are decoded and cropped whenever they are asked for.
"""

import os
from collections.abc import Mapping
from typing import Any, Protocol

import ml_collections
import numpy as np

from moonshine_jax.data.splits import CHUNK, CroppedSplit, Facts, Split, read_part
from moonshine_jax.data.tfds import TfdsSource
from moonshine_jax.errors import UserError
from moonshine_jax.runtime import user_functions

SPLITS = "{'train': (images, labels), 'test': (images, labels)}"  # what a user-defined function returns
MAX_CLASSES = 10**6  # of user-defined data: above any that was published


class Source(Protocol):
  """A data set, whose shape is known before anything is downloaded, prepared or read.

  Attributes:
    image_shape: (height, width, channels).
    num_classes: number of labels.
  """

  image_shape: tuple[int, ...]
  num_classes: int

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
  """Opens the data set of a run again.

  Args:
    config: the run's `config.data`.
    facts: those that the run's network was made for.
    where: the run's workdir, for the error.

  Raises:
    UserError: as `open_source`, and where the images or the classes have changed since.
  """
  source = open_source(config)
  if (source.num_classes, source.image_shape) != (facts.num_classes, facts.image_shape):
    raise UserError(f'{where}: trained on other data than {config.name} is now: {facts}')
  return source


def title(name: str) -> str:
  """Returns what a data set is called in a sentence: a user-defined function without its module."""
  return user_functions.short_name(name) if user_functions.is_name(name) else name


def measure_facts(source: Source, train: Split | CroppedSplit) -> Facts:
  """Measures the facts of a data set.

  Args:
    source: the data set.
    train: its training split, whose `sample` gives the statistics of the channels, exactly, from histograms.
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
  std[std == 0] = 1.0  # a channel that never changes
  return Facts(tuple(source.image_shape), source.num_classes, tuple(mean.tolist()), tuple(std.tolist()))


class DigitsSource:
  """The UCI handwritten digits that are part of scikit-learn: 1,797 images of 8x8 pixels, 10 classes.

  The first 1,297 are for training and the last 500 for the test: the images are in the order in which they were
  collected, so most of the test's writers are not among the training's.
  """

  image_shape: tuple[int, ...] = (8, 8, 1)
  num_classes = 10

  def read(self, split: str) -> Split:
    """Reads a split, 'train' or 'test', or a part of one. Raises UserError where there is no such part."""
    from sklearn.datasets import load_digits  # takes a second to import, which other data sets need not pay

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    return read_part(
      {'train': Split(images[:1297], labels[:1297]), 'test': Split(images[1297:], labels[1297:])}, split, 'digits'
    )


class FunctionSource:
  """The data set that a user-defined function returns: {'train': (images, labels), 'test': (images, labels)}.

  Images are uint8 (examples, height, width, channels), all of one size; labels are integers from 0. The classes are
  those up to the greatest label of all splits. The function is called once, when the source is opened.
  """

  def __init__(self, name: str):
    """Calls the function.

    Args:
      name: of the function.

    Raises:
      UserError: for anything but such splits, in a line that names the function and the split.
    """
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
    self._splits = {key: _check_split(f'{where}, split {key!r}', value) for key, value in splits.items()}
    shapes = {key: split.images.shape[1:] for key, split in self._splits.items()}
    if len(set(shapes.values())) > 1:
      raise UserError(
        f'{where}: the images of {" and ".join(f"{key} are {shape}" for key, shape in shapes.items())}: '
        'expected one size'
      )
    self.image_shape = next(iter(shapes.values()))
    self.num_classes = 1 + max(int(split.labels.max()) for split in self._splits.values())

  def read(self, split: str) -> Split:
    """Reads a split or a part of one. Raises UserError where there is no such part."""
    return read_part(self._splits, split, self._name)


def _check_split(where: str, value: Any) -> Split:
  """Returns a user-defined split. Raises UserError where it is no images and labels."""
  if not isinstance(value, tuple | list) or len(value) != 2:
    raise UserError(f'{where}: a {type(value).__name__}: expected the two arrays (images, labels)')
  images, labels = (np.asarray(array) for array in value)
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
