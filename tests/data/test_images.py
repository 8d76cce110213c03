"""Pixels of files of every kind against those that were put in, and against TensorFlow's rules."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from moonshine_jax.data import images
from moonshine_jax.errors import UserError

RAMP = np.tile(np.linspace(0, 255, 16).astype(np.uint8), (12, 1))
RGB = np.stack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 90)], -1)
GREY = np.stack([RAMP] * 3, -1)
BRIGHTNESS = np.round(RGB @ [0.299, 0.587, 0.114])[..., None]  # of ITU-R BT.601


def encoded(image, form='PNG', **options):
  file = io.BytesIO()
  image.save(file, form, **options)
  return file.getvalue()


def with_alpha(opacity):
  return Image.fromarray(np.dstack([RGB, np.full_like(RAMP, opacity)]))


def rotated():
  """A photograph that viewers turn by 180 degrees: TensorFlow, torchvision and Pillow do not."""
  exif = Image.Exif()
  exif[0x0112] = 3
  return exif


def grey_png(values, bits):
  """A grey PNG of a few bits a pixel, which Pillow reads and does not write."""

  def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

  height, width = values.shape
  rows = np.packbits(np.unpackbits(values[..., None], axis=-1)[..., -bits:].reshape(height, -1), axis=-1)
  header = struct.pack('>IIBBBBB', width, height, bits, 0, 0, 0, 0)
  pixels = zlib.compress(b''.join(b'\0' + row.tobytes() for row in rows))
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', pixels) + chunk(b'IEND', b'')


# Name: file, its pixels as RGB, its pixels as grey, and the difference that is allowed.
KINDS = {
  'RGB': (encoded(Image.fromarray(RGB)), RGB, BRIGHTNESS, 0),
  'palette': (encoded(Image.fromarray(RGB).quantize(200)), RGB, BRIGHTNESS, 0),
  'palette with a transparent colour': (
    encoded(Image.fromarray(RGB).quantize(200), transparency=bytes([0] + 15 * [128])), RGB, BRIGHTNESS, 0
  ),
  'grey': (encoded(Image.fromarray(RAMP)), GREY, RAMP[..., None], 0),
  'grey with alpha': (encoded(Image.fromarray(np.dstack([RAMP, RAMP]), 'LA')), GREY, RAMP[..., None], 0),
  'opaque RGBA': (encoded(with_alpha(255)), RGB, BRIGHTNESS, 0),
  'transparent RGBA': (encoded(with_alpha(99)), RGB, BRIGHTNESS, 0),
  'RGB with a transparent colour': (
    encoded(Image.fromarray(RGB), transparency=tuple(RGB[0, 3].tolist())), RGB, BRIGHTNESS, 0
  ),
  '16 bits': (encoded(Image.fromarray(RAMP.astype(np.uint16) * 257)), GREY, RAMP[..., None], 0),
  '1 bit': (
    encoded(Image.fromarray(RAMP > 127)), 255 * (GREY > 127), 255 * (RAMP[..., None] > 127), 0
  ),
  '4 bits': (grey_png(RAMP // 17, 4), GREY, RAMP[..., None], 0),
  'CMYK': (encoded(Image.fromarray(RGB).convert('CMYK'), 'JPEG', quality=100), RGB, BRIGHTNESS, 4),
  'turned JPEG': (
    encoded(Image.fromarray(RGB), 'JPEG', quality=100, subsampling=0, exif=rotated()), RGB, BRIGHTNESS, 4
  ),
  'GIF': (encoded(Image.fromarray(RGB).quantize(200), 'GIF'), RGB, BRIGHTNESS, 0),
  'BMP': (encoded(Image.fromarray(RGB), 'BMP'), RGB, BRIGHTNESS, 0),
}  # fmt: skip


@pytest.mark.parametrize('kind', KINDS)
def test_files_of_every_kind_have_the_pixels_that_they_show(kind):
  file, rgb, grey, tolerance = KINDS[kind]
  for channels, expected in ((3, rgb), (1, grey)):
    pixels = images.decode_whole(file, (12, 16, channels), set())
    assert pixels.dtype == np.uint8 and pixels.shape == (12, 16, channels)
    np.testing.assert_allclose(pixels, expected, atol=tolerance + (channels == 1))


def test_16_bits_are_rounded_to_the_nearest_of_8():
  values = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
  pixels = images.decode_whole(encoded(Image.fromarray(values)), (256, 256, 1), set())[..., 0]
  np.testing.assert_array_equal(pixels, np.floor(values * (255 / 65535) + 0.5))
  assert (np.abs(pixels.astype(int) - (values >> 8)) <= 1).all()  # TensorFlow's


def test_what_is_transparent_in_parts_is_a_doubt():
  doubtful = set()
  for kind, (file, *_) in KINDS.items():
    doubts = set()
    images.decode_whole(file, (12, 16, 3), doubts)
    assert doubts <= {images.TRANSPARENT}
    if doubts:
      doubtful.add(kind)
  assert doubtful == {
    'palette with a transparent colour',
    'grey with alpha',
    'transparent RGBA',
    'RGB with a transparent colour',
  }


@pytest.mark.parametrize(
  ('file', 'message'),
  [
    (encoded(Image.fromarray(RGB[:, :9])), 'an image of 12x9 pixels: expected 12x16, as the data set says, or config'),
    (encoded(Image.fromarray(RGB.transpose(1, 0, 2))), 'an image of 16x12 pixels: expected 12x16'),
    (
      encoded(Image.fromarray(RAMP.astype(np.float32)), 'TIFF'),
      'an image of 32 bits a channel .mode F of Pillow.: expected 8',
    ),
    (encoded(Image.fromarray(RAMP.astype(np.int32)), 'TIFF'), 'an image of 32 bits a channel .mode I of Pillow.'),
    (b'no image', 'cannot be read .UnidentifiedImageError: .*its files are damaged'),
    (encoded(Image.fromarray(RGB))[:-60], 'cannot be read .*: its files are damaged: prepare the data set anew'),
  ],
)
def test_what_is_no_such_image_is_one_line(file, message):
  with pytest.raises(UserError, match='^here:? ' + message), images.reading('here'):
    images.decode_whole(file, (12, 16, 3), set())
