"""What a data set holds: the examples of each class, the images that are damaged, and a sheet of some of them."""

import dataclasses
import io
import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from moonshine_jax.data import augment, decoding
from moonshine_jax.data.encoded import DamagedImagesError, decode_chunks
from moonshine_jax.data.feeds import epoch_order
from moonshine_jax.data.sources import Source
from moonshine_jax.data.splits import CroppedSplit, Split
from moonshine_jax.errors import printable
from moonshine_jax.runtime import files

COLUMNS, ROWS = 8, 4  # of a sheet
CELL = 96  # pixels on a side of an image in a sheet, at least
FONT = 12  # pixels


@dataclasses.dataclass(frozen=True)
class SplitSummary:
  """What a split holds.

  Attributes:
    split: the split; None where images of one size are damaged, which are then not read at all.
    counts: examples of each class, int (classes,), as far as they were looked at.
    looked_at: number of the examples that were.
    faults: a line for each that is damaged.
  """

  split: Split | CroppedSplit | None
  counts: np.ndarray
  looked_at: int
  faults: list[str]


def summarise(source: Source, split: str, examples: int | None = None) -> SplitSummary:
  """Reads a split, and decodes its images.

  Args:
    source: the data set.
    split: name of the split, or of a part of it.
    examples: number of the images of any size that are decoded, evenly spaced; None for all.

  Raises:
    UserError: where the split cannot be had.
  """
  try:
    read = source.read(split)
  except DamagedImagesError as error:
    return SplitSummary(None, _count(error.labels, source), len(error.labels), error.faults)
  if isinstance(read, Split):
    return SplitSummary(read, _count(read.labels, source), len(read), [])
  index = np.linspace(0, len(read) - 1, min(examples or len(read), len(read))).astype(int).tolist()
  size, _, channels = source.image_shape
  faults: list[str] = []
  labels: list[int] = []

  def decode(image: bytes, _: int) -> np.ndarray:
    return decoding.decode(image, size, channels, decoding.central_box, set())

  for _, some in decode_chunks(read.examples, decode, index, faults):
    labels += some
  return SplitSummary(read, _count(labels, source), len(index), faults)


def _count(labels: Sequence[int] | np.ndarray, source: Source) -> np.ndarray:
  return np.bincount(np.asarray(labels, np.int64), minlength=source.num_classes)


def draw_sheet(
  path: str | os.PathLike,
  train: Split | CroppedSplit,
  classes: Sequence[str],
  config: ml_collections.ConfigDict,
) -> None:
  """Writes a picture of the first training images of the first epoch, augmented, with the names of their classes.

  Args:
    path: of the PNG.
    train: the training split.
    classes: names of the classes; none for their numbers.
    config: of the run: its seed and its `data`.

  Raises:
    UserError: where an image cannot be decoded, or the file cannot be written.
  """
  batch = min(COLUMNS * ROWS, len(train))
  index = epoch_order(config.seed, 0, len(train), batch)[0]
  images, labels = train.take(index, (config.seed, 0))
  mixed, _ = augment.augment_batch(
    config.data,
    batch,
    jax.random.key(config.seed),
    jnp.asarray(images),
    jnp.asarray(labels),
    images.mean((0, 1, 2)),
    None,
  )
  augmented = np.asarray(mixed).round().astype(np.uint8)  # mixed images are floats
  scale = max(1, -(-CELL // max(images.shape[1:3])))
  height, width = (side * scale for side in images.shape[1:3])
  column, row = max(width, CELL) + 4, height + FONT + 8
  sheet = Image.new('RGB', (COLUMNS * column, -(-batch // COLUMNS) * row), 'white')
  draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
  for i, (image, label) in enumerate(zip(augmented, labels, strict=True)):
    left, top = i % COLUMNS * column + 2, i // COLUMNS * row + 2
    sheet.paste(_picture(image).resize((width, height), Image.Resampling.NEAREST), (left, top))
    name = printable(classes[label] if classes else str(label))
    while draw.textlength(name, font) > column - 4:
      name = name[:-2] + '…'
    draw.text((left, top + height + 2), name, 'black', font)
  file = io.BytesIO()
  sheet.save(file, 'PNG')
  files.write_atomically(path, file.getvalue())


def _picture(image: np.ndarray) -> Image.Image:
  """Returns an image as a picture: in colours where it has three channels, else as the mean of them."""
  return Image.fromarray(image if image.shape[-1] == 3 else image.mean(-1).round().astype(np.uint8))
