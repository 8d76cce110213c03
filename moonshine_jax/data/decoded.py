"""Images of one size, decoded once into files: reading these takes a tenth of the time, and no memory."""

import hashlib
import os
import re
import secrets
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from moonshine_jax.data.encoded import DamagedImagesError, Examples, decode_chunks
from moonshine_jax.data.images import decode_whole
from moonshine_jax.data.splits import Split, check_labels
from moonshine_jax.errors import warn, warn_once
from moonshine_jax.runtime import files


class DecodedSplit:
  """The two files of a split whose images are decoded once: the images, and their labels with a checksum of both.

  Attributes:
    images_path: of the images, an array of NumPy.
    labels_path: of the labels; it is written last, and stands for both.
  """

  def __init__(self, folder: str | os.PathLike, split: str, identity: Iterable[Any], image_shape: tuple[int, ...]):
    """Names the files.

    Args:
      folder: where they are.
      split: what the split is called.
      identity: tells the files that the images are decoded from from others: where these are of another size or time,
        they are decoded anew.
      image_shape: (height, width, channels).
    """
    digest = hashlib.sha256(repr([*identity, split, *image_shape]).encode('utf-8', 'surrogateescape')).hexdigest()[:16]
    name = f'{re.sub("[^a-z0-9]+", "-", split.lower())}-{digest}'
    self.images_path, self.labels_path = Path(folder) / f'{name}.images.npy', Path(folder) / f'{name}.labels.npz'
    self._image_shape = image_shape

  def read(self, examples: Examples, where: str, num_classes: int) -> Split:
    """Reads the split; decodes its images where that was not done, or the files are damaged.

    Args:
      examples: the split, encoded.
      where: what it is called, for an error.
      num_classes: number of labels.

    Raises:
      UserError: where images cannot be decoded, or are of another size, and where the files cannot be written.
    """
    if self.labels_path.exists():
      try:
        return self._read(num_classes)
      except Exception as error:  # whatever NumPy and zipfile make of damaged files
        warn(f'{self.images_path}: damaged ({error}): decoding the images again')
    self._decode(examples, where, num_classes)
    return self._read(num_classes)

  def _decode(self, examples: Examples, where: str, num_classes: int) -> None:
    """Decodes a split into its two files, each whole or not at all."""
    warn(f'decoding {len(examples)} images of {where}, once, into {self.images_path}')
    labels: list[int] = []
    faults: list[str] = []
    doubts: set[str] = set()
    crc32 = 0

    def decode(image: bytes, _: int) -> np.ndarray:
      return decode_whole(image, self._image_shape, doubts)

    # A name of this process alone: others, on other machines too, may decode into the same folder.
    partial = self.images_path.with_name(f'{self.images_path.name}.{secrets.token_hex(8)}.tmp')
    with files.writing(self.images_path):
      self.images_path.parent.mkdir(parents=True, exist_ok=True)
      try:
        with open(partial, 'xb') as file:  # not a memory map: on a full disk writing to one kills the process
          np.lib.format.write_array_header_1_0(
            file,
            {
              'descr': np.lib.format.dtype_to_descr(np.dtype(np.uint8)),
              'fortran_order': False,
              'shape': (len(examples), *self._image_shape),
            },
          )
          for images, some_labels in decode_chunks(examples, decode, range(len(examples)), faults):
            labels += some_labels
            if not faults:
              pixels = np.stack([each for each in images if each is not None])
              file.write(pixels.tobytes())
              crc32 = zlib.crc32(pixels.data, crc32)
        if faults:
          raise DamagedImagesError(faults, labels)
        check_labels(where, np.array(labels), num_classes)
        os.replace(partial, self.images_path)
        with open(partial, 'xb') as file:
          np.savez(file, labels=np.array(labels, np.int32), images_crc32=crc32)
        os.replace(partial, self.labels_path)
      finally:
        partial.unlink(missing_ok=True)
    for doubt in doubts:
      warn_once(f'{where}: {doubt}')

  def _read(self, num_classes: int) -> Split:
    """Reads a split from its files. Raises whatever shows that they are not as they were written."""
    with np.load(self.labels_path, allow_pickle=False) as file:
      labels, crc32 = file['labels'], int(file['images_crc32'])
    images = np.load(self.images_path, mmap_mode='r', allow_pickle=False)
    if images.dtype != np.uint8 or labels.dtype != np.int32 or images.shape != (*labels.shape, *self._image_shape):
      raise ValueError(f'{images.dtype} {images.shape} and {labels.dtype} {labels.shape}')
    if zlib.crc32(images) != crc32:
      raise ValueError('the images are not those that were written')
    check_labels('labels', labels, num_classes)
    return Split(images, labels)


def cache_folder() -> Path:
  """Returns this user's folder for what is decoded of data in folders that are not written to."""
  return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'moonshine_jax'
