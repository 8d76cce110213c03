"""Data sets that a user has as arrays, checked so that each mistake is one line."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from moonshine_jax.data.splits import MAX_CLASSES, Split, check_labels, read_part
from moonshine_jax.errors import UserError, warn_once

MOST_CHANNELS_FIRST = 4  # as of RGB with alpha: a height of no more is that of no photograph


class ArraySource:
  """A data set of arrays in memory.

  The classes are those up to the greatest label of all splits.

  Attributes:
    image_shape: (height, width, channels).
    num_classes: number of labels.
    classes: their names; none where they have none.
  """

  def __init__(self, name: str, splits: Mapping[str, Any], num_classes: int = 0, classes: tuple[str, ...] = ()):
    """Checks the arrays.

    Args:
      name: of the data set.
      splits: (images, labels) by the name of the split: images uint8 (examples, height, width, channels), all of one
        size; labels integers from 0.
      num_classes: number of labels; 0 for the greatest label and one.
      classes: their names.

    Raises:
      UserError: for anything but such arrays, in a line that names the data set and the split.
    """
    where = f'config.data.name={name!r}'
    self._name = name
    self._splits = {key: _check_split(f'{where}, split {key!r}', value) for key, value in splits.items()}
    shapes = {key: split.images.shape[1:] for key, split in self._splits.items()}
    if len(set(shapes.values())) > 1:
      raise UserError(
        f'{where}: the images of {" and ".join(f"{key} are {shape}" for key, shape in shapes.items())}: '
        'expected one size'
      )
    self.image_shape = next(iter(shapes.values()))
    self.num_classes = num_classes or 1 + max(int(split.labels.max()) for split in self._splits.values())
    self.classes = classes
    for key, split in self._splits.items():
      check_labels(f'{where}, split {key!r}', split.labels, self.num_classes)
    if self.image_shape[0] <= MOST_CHANNELS_FIRST < min(self.image_shape[1:]):
      warn_once(
        f'{where}: images of {self.image_shape} have a height of {self.image_shape[0]} and {self.image_shape[2]} '
        'channels: if the channels come first, expected images.transpose(0, 2, 3, 1)'
      )

  def read(self, split: str) -> Split:
    """Reads a split or a part of one. Raises UserError where there is no such part."""
    return read_part(self._splits, split, self._name)


def _check_split(where: str, value: Any) -> Split:
  """Returns a split of a user's arrays. Raises UserError where it is no images and labels."""
  if not isinstance(value, tuple | list) or len(value) != 2:
    what = f'a {type(value).__name__}' + (f' of {len(value)}' if isinstance(value, tuple | list) else '')
    raise UserError(f'{where}: {what}: expected the two arrays (images, labels)')
  images, labels = (_as_array(where, name, array) for name, array in zip(('images', 'labels'), value, strict=True))
  if images.dtype != np.uint8:
    raise UserError(
      f'{where}: images are {_described(images)}: expected uint8, from 0 to 255{_to_uint8(images)}: they are '
      'normalised later, by the mean and the standard deviation of each channel'
    )
  if images.ndim != 4 or 0 in images.shape:
    hint = ': images[..., None], if they are grey' if images.ndim == 3 else ''
    raise UserError(
      f'{where}: images have the shape {images.shape}: expected (examples, height, width, channels){hint}'
    )
  if not np.issubdtype(labels.dtype, np.integer):
    raise UserError(
      f'{where}: labels are {_described(labels)}: expected integers from 0, one for each image{_to_classes(labels)}'
    )
  if labels.shape != images.shape[:1]:
    hint = ''
    if labels.ndim == 2 and len(labels) == len(images):
      hint = ': labels[:, 0]' if labels.shape[1] == 1 else ': labels.argmax(1), if they are one-hot'
    raise UserError(
      f'{where}: labels have the shape {labels.shape}: expected {images.shape[:1]}, one for each image{hint}'
    )
  if not 0 <= labels.min() <= labels.max() < MAX_CLASSES:
    raise UserError(
      f'{where}: labels are from {labels.min()} to {labels.max()}: expected integers from 0 to less than '
      f'{MAX_CLASSES:,}'
    )
  return Split(images, labels.astype(np.int32))


def _as_array(where: str, name: str, value: Any) -> np.ndarray:
  """Returns a user's images or labels as an array. Raises UserError where they are of several shapes, or masked."""
  if np.ma.is_masked(value):
    raise UserError(f'{where}: {name} are masked in parts: expected an array without a mask')
  try:
    return np.asarray(value)
  except Exception as error:  # of lists whose arrays differ, and whatever the value's own class raises
    shapes = list(dict.fromkeys(np.shape(each) for each in value)) if isinstance(value, list | tuple) else []
    if len(shapes) > 1:
      raise UserError(
        f'{where}: {name} of {len(shapes)} shapes, as {shapes[0]} and {shapes[1]}: expected one'
      ) from error
    raise UserError(
      f'{where}: {name} are a {type(value).__name__} that is no array ({type(error).__name__}: {error}): expected one'
    ) from error


def _described(array: np.ndarray) -> str:
  """Returns an array's dtype and range, for an error."""
  if array.dtype == object:
    kinds = sorted({f'{type(each).__name__} {np.shape(each) or ""}'.strip() for each in array.ravel()[:1000]})
    return f'{"Python objects" if array.ndim else "one Python object"} ({", ".join(kinds[:3])})'
  if array.size and np.issubdtype(array.dtype, np.number) and not np.issubdtype(array.dtype, np.complexfloating):
    finite = np.isfinite(array)
    worst = '' if finite.all() else f', {np.sum(~finite)} of them not finite'
    return (
      f'{array.dtype}' + (f' from {array[finite].min():g} to {array[finite].max():g}' if finite.any() else '') + worst
    )
  return str(array.dtype)


def _to_uint8(images: np.ndarray) -> str:
  """Returns what makes images of another dtype uint8, as the end of a line; '' where their range does not tell."""
  if not images.size or images.dtype.kind not in 'biuf' or not np.isfinite(images).all():
    return ''
  low, high = images.min(), images.max()
  if images.dtype == np.uint16 and high > 255:
    return ': np.round(images / 257).astype(np.uint8)'
  if low >= 0 and high <= 1:
    return ': np.round(images * 255.0).astype(np.uint8)'
  if low >= -1 and high <= 1:
    return ': np.round((images + 1) * 127.5).astype(np.uint8)'
  return ': np.round(images).astype(np.uint8)' if low >= 0 and high <= 255 else ''


def _to_classes(labels: np.ndarray) -> str:
  """Returns what makes labels of another dtype integers, as the end of a line; '' where that cannot be told."""
  if labels.dtype.kind in 'US':
    return ': np.unique(labels, return_inverse=True)[1], over all splits together'
  if labels.dtype == bool or (labels.dtype.kind == 'f' and np.array_equal(labels, np.floor(labels))):
    return ': labels.astype(int)'
  return ''
