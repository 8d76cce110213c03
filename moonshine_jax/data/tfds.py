"""Data sets of TensorFlow Datasets (TFDS), read without TensorFlow."""

import hashlib
import importlib.util
import os
import re
import secrets
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from moonshine_jax.data import prepared
from moonshine_jax.data.decoding import Decoders
from moonshine_jax.data.images import decode_whole, reading
from moonshine_jax.data.splits import CHUNK, CroppedSplit, Split, check_labels
from moonshine_jax.errors import UserError, warn, warn_once
from moonshine_jax.runtime import files


class TfdsSource:
  """A data set of TFDS with features `image` (uint8, 1 or 3 channels) and `label` (a class).

  The images are of one size, or of any size, and then cropped to squares of `image_size` pixels. Data that is prepared
  as `array_record` is read without TensorFlow; only preparing needs it.

  Attributes:
    image_shape: (height, width, channels).
    num_classes: number of labels.
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

  def read(self, split: str) -> Split | CroppedSplit:
    """Reads a split, downloading and preparing the data set where that is needed.

    Args:
      split: in TFDS's notation.

    Raises:
      UserError: where the split cannot be had.
    """
    if not self._builder.is_prepared():
      self._prepare()
    try:
      examples = prepared.encoded_examples(self._builder, split)
    except NotImplementedError as error:
      raise UserError(
        f'{self._builder.data_dir}: prepared as {self._builder.info.file_format.value}, which cannot be read without '
        f'TensorFlow: prepare it as array_record (tfds build {self._name} --file_format=array_record)'
      ) from error
    except ValueError as error:  # an unknown split, or one that slices beyond the end
      raise UserError(f'data set {self._name}, split {split!r}: {error}') from error
    if not len(examples):
      raise UserError(f'data set {self._name}, split {split!r}: has no examples')
    if self._cropped:
      self._decoders = self._decoders or Decoders(self._builder.data_dir, self.image_shape[0], self.image_shape[-1])
      return CroppedSplit(self._decoders, split, np.arange(len(examples)), self.num_classes)
    paths = self._cache_paths(split)
    if paths[1].exists():
      try:
        return self._read_arrays(*paths)
      except Exception as error:  # whatever NumPy and zipfile make of damaged files
        warn(f'{paths[0]}: damaged ({error}): decoding the images again')
    self._decode(examples, split, *paths)
    return self._read_arrays(*paths)

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
    """Returns the paths of a split's decoded images and labels.

    Their names follow from the files that they are decoded from, so that data which is prepared anew is decoded anew.
    """
    identity = [str(self._builder.data_dir), split, *self.image_shape]
    for split_info in self._builder.info.splits.values():
      for path in split_info.filepaths:
        try:
          status = os.stat(path)
        except OSError as error:
          raise UserError(f'{path}: {error.strerror}: prepare the data set anew') from error
        identity += [os.path.basename(path), status.st_size, status.st_mtime_ns]
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    names = [f'{re.sub("[^a-z0-9]+", "-", split.lower())}-{digest}{end}' for end in ('.images.npy', '.labels.npz')]
    folder = Path(self._builder.data_dir) / 'decoded'
    prepared.refuse_outside(folder.parent, [folder / name for name in names])
    if not os.access(self._builder.data_dir, os.W_OK):  # shared data that only others may write
      folder = Path.home() / '.cache' / 'moonshine_jax'
    return folder / names[0], folder / names[1]

  def _decode(self, examples: Any, split: str, images_path: Path, labels_path: Path) -> None:
    """Decodes a split into its two files, each whole or not at all; the labels last, since they stand for both."""
    warn(f'decoding {len(examples)} images of {split}, once, into {images_path}')
    labels = np.empty(len(examples), np.int32)
    crc32 = 0
    # A name of this process alone: others, on other machines too, may decode into the same folder.
    partial = images_path.with_name(f'{images_path.name}.{secrets.token_hex(8)}.tmp')
    with files.writing(images_path):
      images_path.parent.mkdir(parents=True, exist_ok=True)
      try:
        with open(partial, 'xb') as file:  # not a memory map: on a full disk writing to one kills the process
          np.lib.format.write_array_header_1_0(
            file,
            {
              'descr': np.lib.format.dtype_to_descr(np.dtype(np.uint8)),
              'fortran_order': False,
              'shape': (len(examples), *self.image_shape),
            },
          )
          for start in range(0, len(examples), CHUNK):
            images, labels[start : start + CHUNK] = self._decode_chunk(examples, split, start)
            file.write(images.tobytes())
            crc32 = zlib.crc32(images.data, crc32)
        check_labels(f'data set {self._name}, split {split!r}', labels, self.num_classes)
        os.replace(partial, images_path)
        with open(partial, 'xb') as file:
          np.savez(file, labels=labels, images_crc32=crc32)
        os.replace(partial, labels_path)
      finally:
        partial.unlink(missing_ok=True)

  def _decode_chunk(self, examples: Any, split: str, start: int) -> tuple[np.ndarray, list[int]]:
    """Returns the images and the labels of CHUNK examples. Raises UserError that names the first that is no image."""
    where = f'{self._builder.data_dir}: split {split!r}'
    with reading(where):
      chunk = examples.__getitems__(range(start, min(start + CHUNK, len(examples))))
    images, doubts = np.empty((len(chunk), *self.image_shape), np.uint8), set[str]()
    for i, example in enumerate(chunk):
      with reading(f'{where}, example {start + i}'):
        images[i] = decode_whole(example['image'], self.image_shape, doubts)
    for doubt in doubts:
      warn_once(f'{self._builder.data_dir}: {doubt}')
    return images, [example['label'] for example in chunk]

  def _read_arrays(self, images_path: Path, labels_path: Path) -> Split:
    """Reads a split from its files. Raises whatever shows that they are not as they were written."""
    with np.load(labels_path) as file:
      labels, crc32 = file['labels'], int(file['images_crc32'])
    images = np.load(images_path, mmap_mode='r')
    if images.dtype != np.uint8 or labels.dtype != np.int32 or images.shape != (*labels.shape, *self.image_shape):
      raise ValueError(f'{images.dtype} {images.shape} and {labels.dtype} {labels.shape}')
    if zlib.crc32(images) != crc32:
      raise ValueError('the images are not those that were written')
    check_labels('labels', labels, self.num_classes)
    return Split(images, labels)
