"""The sheet shows the images that the first batch of a run has, as they are augmented, in their places."""

import jax
import numpy as np
import pytest
from PIL import Image

from moonshine_jax.configs import digits
from moonshine_jax.data import augment, feeds
from moonshine_jax.data.splits import Split
from moonshine_jax.report import data_summary
from tests.helpers import image_files


@pytest.mark.parametrize(('shape', 'scale'), [((24, 24, 3), 4), ((10, 30, 1), 4), ((200, 100, 2), 1)])
def test_a_sheet_shows_augmented_images_of_the_first_epoch(shape, scale, tmp_path):
  images, labels = image_files.noise(0, 40, shape), np.arange(40, dtype=np.int32)
  config = digits.get_config()
  config.data.pad, config.data.flip = 3, True
  data_summary.draw_sheet(tmp_path / 'sheet.png', Split(images, labels), [], config)
  index = feeds.epoch_order(config.seed, 0, 40, 32)[0]
  choices = augment.draw_choices(jax.random.key(config.seed), 32, 3, True)
  expected = np.asarray(augment.crop_and_flip(jax.numpy.asarray(images[index]), choices, 3))
  assert (expected != images[index]).any()
  sheet = np.asarray(Image.open(tmp_path / 'sheet.png'))
  height, width = shape[0] * scale, shape[1] * scale
  rows, columns = sheet.shape[0] // 4, sheet.shape[1] // 8
  for i, image in enumerate(expected):
    top, left = i // 8 * rows + 2, i % 8 * columns + 2
    shown = sheet[top : top + height : scale, left : left + width : scale]
    picture = image if shape[-1] == 3 else np.repeat(image.mean(-1, keepdims=True).round(), 3, -1)
    np.testing.assert_array_equal(shown, picture)
    assert (sheet[top + height : i // 8 * rows + rows, left : left + width] < 128).any()  # a label under it
