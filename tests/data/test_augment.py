import jax
import jax.numpy as jnp
import numpy as np

from moonshine_jax.data import augment


def test_crop_and_flip_equals_numpy():
  images = np.random.default_rng(0).integers(1, 256, (5, 6, 4, 3), np.uint8)
  offsets, flips = [(0, 0), (2, 2), (4, 4), (1, 3), (4, 0)], [False, False, True, True, False]
  result = augment.crop_and_flip(jnp.asarray(images), {'offset': jnp.array(offsets), 'flip': jnp.array(flips)}, pad=2)
  assert result.dtype == jnp.uint8
  for image, (row, column), flip, cropped in zip(images, offsets, flips, result, strict=True):
    expected = np.pad(image, ((2, 2), (2, 2), (0, 0)))[row : row + 6, column : column + 4]
    np.testing.assert_array_equal(cropped, expected[:, ::-1] if flip else expected)
  np.testing.assert_array_equal(result[1], images[1])  # the offset of the padding leaves an image as it is


def test_choices_are_uniform_over_offsets_and_even_over_flips():
  choices = augment.draw_choices(jax.random.key(0), 9000, pad=4, flip=True)
  for axis in range(2):
    counts = np.bincount(choices['offset'][:, axis], minlength=9)
    assert len(counts) == 9 and abs(counts - 1000).max() < 150
  assert abs(choices['flip'].mean() - 0.5) < 0.03


def test_choices_without_augmentation_change_nothing():
  choices = augment.draw_choices(jax.random.key(0), 50, pad=0, flip=False)
  assert not choices['offset'].any() and not choices['flip'].any()
