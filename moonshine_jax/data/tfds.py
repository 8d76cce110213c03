"""Data sets of TensorFlow Datasets (TFDS), read without TensorFlow."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np

from moonshine_jax.data import prepared
from moonshine_jax.data.decoded import DecodedSplit, cache_folder
from moonshine_jax.data.decoding import Decoders
from moonshine_jax.data.splits import CroppedSplit, Split
from moonshine_jax.errors import UserError, warn


class TfdsSource:
  """A data set of TFDS with features `image` (uint8, 1 or 3 channels) and `label` (a class).

  The images are of one size, or of any size, and then cropped to squares of `image_size` pixels. Data that is prepared
  as `array_record` is read without TensorFlow; only preparing needs it.

  Attributes:
    image_shape: (height, width, channels).
    num_classes: number of labels.
    classes: their names; none where they have none, or it is not prepared.
  """

  def __init__(self, name: str, data_dir: str | None, image_size: int):
    """Opens a data set, without downloading anything.

    Args:
      name: as TFDS has it, as 'cifar10' or 'mnist:3.0.1'.
      data_dir: where TFDS looks for its data sets; None for its default.
      image_size: pixels on a side of the crops of images of any size; 0 for images of one size.

    Raises:
      UserError: for a data set that is unknown, or is not of images and labels.
    """
    import tensorflow_datasets as tfds  # takes a second to import

    self._name = name
    try:
      self._builder = prepared.open_builder(name, data_dir)
    except tfds.core.DatasetNotFoundError as error:
      raise UserError(f'config.data.name={name!r}: TFDS knows no such data set, nor is it in {data_dir!r}') from error
    except Exception as error:  # what TFDS makes of names and versions, and of files that are damaged
      raise UserError(f'config.data.name={name!r}: {error}') from error
    features = self._builder.info.features
    features = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    image, label = features.get('image'), features.get('label')
    num_classes = label.num_classes if isinstance(label, tfds.features.ClassLabel) else None
    if not isinstance(image, tfds.features.Image) or not num_classes:
      raise UserError(f'config.data.name={name!r}: expected an image classification data set with image and label')
    channels = image.shape[-1]
    sized = None not in image.shape or image_size
    if image.np_dtype != np.uint8 or len(image.shape) != 3 or channels not in (1, 3) or not sized:
      raise UserError(
        f'config.data.name={name!r}: images are {image.np_dtype} {image.shape}: expected uint8 of one size '
        'and 1 or 3 channels, or of any size with config.data.image_size, the pixels on a side of their crops'
      )
    self.image_shape = (image_size, image_size, channels) if image_size else tuple(image.shape)
    self._cropped = image_size > 0
    self._decoders: Decoders | None = None  # of all splits, once the first is read
    self.num_classes = num_classes
    names = tuple(map(str, features['label'].names))
    # Where the data set is not prepared, TFDS may know no names yet, and counts.
    self.classes: tuple[str, ...] = () if names == tuple(map(str, range(num_classes))) else names

  def read(self, split: str) -> Split | CroppedSplit:
    """Reads a split, downloading and preparing the data set where that is needed.

    Args:
      split: in TFDS's notation.

    Raises:
      UserError: where the split cannot be had.
    """
    if not self._builder.is_prepared():
      self._prepare()
    folder = str(self._builder.data_dir)
    try:
      examples = prepared.PreparedExamples(folder, split)
    except NotImplementedError as error:
      raise UserError(
        f'{folder}: prepared as {self._builder.info.file_format.value}, which cannot be read without TensorFlow: '
        f'prepare it as array_record (tfds build {self._name} --file_format=array_record)'
      ) from error
    except ValueError as error:  # an unknown split, or one that slices beyond the end
      raise UserError(f'data set {self._name}, split {split!r}: {error}') from error
    where = f'data set {self._name}, split {split!r}'
    if not len(examples):
      raise UserError(f'{where}: has no examples')
    if self._cropped:
      self._decoders = self._decoders or Decoders(folder, self.image_shape[0], self.image_shape[-1])
      return CroppedSplit(self._decoders, examples, where, self.num_classes)
    return self._decoded(split).read(examples, where, self.num_classes)

  def _prepare(self) -> None:
    """Downloads the data set and writes it as array_record."""
    if importlib.util.find_spec('tensorflow') is None:
      raise UserError(
        f'data set {self._name} is not prepared in {self._builder.data_dir}, and preparing it needs TensorFlow: '
        f"pip install 'moonshine-jax[prepare]', or set config.data.data_dir to where it is{self._archive()}"
      )
    import tensorflow_datasets as tfds

    warn(f'preparing data set {self._name} in {self._builder.data_dir}')
    try:
      self._builder.download_and_prepare(file_format=tfds.core.FileFormat.ARRAY_RECORD)
    except Exception as error:  # whatever the network, the disk and the data set's own script raise
      raise UserError(f'data set {self._name} cannot be prepared in {self._builder.data_dir}: {error!r}') from error

  def _archive(self) -> str:
    """Returns in words how data is named that needs no TFDS, where there is such data; else nothing."""
    archives = {f'cifar{classes}': f'cifar:cifar-{classes}-python.tar.gz' for classes in (10, 100)}
    archive = archives.get(self._name)
    return f', or name the archive of its authors (config.data.name, or --data), as {archive}' if archive else ''

  def _decoded(self, split: str) -> DecodedSplit:
    """Returns the files of a split's decoded images: beside the prepared data, where that may be written."""
    identity: list[Any] = [str(self._builder.data_dir)]
    for split_info in self._builder.info.splits.values():
      for path in split_info.filepaths:
        try:
          status = os.stat(path)
        except OSError as error:
          raise UserError(f'{path}: {error.strerror}: prepare the data set anew') from error
        identity += [os.path.basename(path), status.st_size, status.st_mtime_ns]
    folder = Path(self._builder.data_dir) / 'decoded'
    if not os.access(self._builder.data_dir, os.W_OK):  # shared data that only others may write
      folder = cache_folder()
    decoded = DecodedSplit(folder, split, identity, self.image_shape)
    if folder != cache_folder():
      prepared.refuse_outside(folder.parent, [decoded.images_path, decoded.labels_path])
    return decoded
