"""Decoding of image files to 8 bits a channel, the same for images of one size and of any size.

The pixels are those that TensorFlow, torchvision and Keras give: palettes and CMYK become RGB, transparency is dropped,
and the orientation in a photograph's EXIF data is ignored. 16 bits are scaled to 8 where TensorFlow drops the lower 8,
which differs by at most 1.
"""

import contextlib
import io
import re
from collections.abc import Iterator

import numpy as np
from PIL import Image

from moonshine_jax.errors import UserError

# The endings of files of images, and the formats that Pillow may take them for. It has others, of which EPS runs a
# program.
ENDINGS = '.bmp', '.gif', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp'
FORMATS = 'BMP', 'GIF', 'JPEG', 'PNG', 'PPM', 'TIFF', 'WEBP'
GREY_MODES = '1', 'L', 'LA', 'La', 'I'  # of Pillow, beside I;16 and its kin

PREPARE_ANEW = 'its files are damaged: prepare the data set anew'  # what to do about a data set of TFDS
COLOURED = 'some images have colours: they become grey, as the others are'
TRANSPARENT = 'some images are transparent in parts: this is dropped, as TensorFlow and torchvision drop it'
WHITE_OF_16_BITS = 257  # times the white of 8 bits


def open_image(encoded: bytes) -> Image.Image:
  """Opens an image of one of FORMATS, to be closed; its pixels are not decoded yet. Raises what Pillow raises."""
  return Image.open(io.BytesIO(encoded), formats=FORMATS)


def is_grey(image: Image.Image) -> bool:
  """Returns whether an image, as Pillow opens it, has no colours by its kind or its palette."""
  if image.mode == 'P':
    palette = np.array(image.getpalette('RGB')).reshape(-1, 3)
    return bool((palette == palette[:, :1]).all())
  return image.mode in GREY_MODES or image.mode.startswith('I;16')


def to_channels(image: Image.Image, channels: int, doubts: set[str]) -> Image.Image:
  """Converts an image of any kind to 8 bits a channel.

  Args:
    image: as Pillow opens it.
    channels: 1 for grey, 3 for RGB.
    doubts: takes up TRANSPARENT and COLOURED, where that is so.

  Returns:
    An image of mode 'L' or 'RGB', of the same size.

  Raises:
    UserError: for pixels of more than 16 bits, whose range a file does not say.
  """
  if channels == 1 and not is_grey(image):
    doubts.add(COLOURED)
  if image.mode.startswith('I;16') or (image.mode == 'I' and image.format == 'PNG'):
    # Pillow's own conversion cuts at 255. PNGs of 16 bits and 3 channels are without their lower 8 bits by now.
    image = Image.fromarray(np.round(np.asarray(image) / WHITE_OF_16_BITS).astype(np.uint8))
  elif image.mode in ('I', 'F'):
    raise UserError(f'an image of 32 bits a channel (mode {image.mode} of Pillow): expected 8 or 16')
  elif image.has_transparency_data:
    image = image.convert('RGBA')
    if np.asarray(image)[..., -1].min() < 255:
      doubts.add(TRANSPARENT)
    image = image.convert('RGB')
  return image.convert('RGB' if channels == 3 else 'L')


def decode_whole(encoded: bytes, shape: tuple[int, ...], doubts: set[str]) -> np.ndarray:
  """Decodes an image whose size is known.

  Args:
    encoded: the image's file.
    shape: (height, width, channels) that the data set promises; 1 or 3 channels.
    doubts: takes up what a user should know, as `to_channels` does.

  Returns:
    uint8, of the shape.

  Raises:
    UserError: for an image of another size, or of more than 16 bits.
    Exception: what Pillow raises for a damaged file.
  """
  height, width, channels = shape
  with open_image(encoded) as image:
    if image.size != (width, height):
      raise UserError(
        f'an image of {image.height}x{image.width} pixels: expected {height}x{width}, as the data set says, or '
        'config.data.image_size, to which images of any size are cropped'
      )
    return np.asarray(to_channels(image, channels, doubts)).reshape(shape)


@contextlib.contextmanager
def reading(where: str, remedy: str = PREPARE_ANEW) -> Iterator[None]:
  """Turns whatever goes wrong while entered into one line that begins with where it was.

  Args:
    where: begins the line.
    remedy: ends it, where files are damaged.

  Raises:
    UserError: for files that are damaged, and as it was raised inside.
  """
  try:
    yield
  except UserError as error:
    raise UserError(f'{where}: {error}') from error
  except Exception as error:  # what array_record and Pillow make of damaged files
    reason = re.sub(r' <_io\.\S+ object at \w+>', '', ' '.join(f'{type(error).__name__}: {error}'.split()))[:200]
    raise UserError(f'{where} cannot be read ({reason}): {remedy}') from error
