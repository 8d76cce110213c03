import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def test_cutout_equals_numpy():
  images = np.random.default_rng(0).integers(0, 256, (3, 6, 4, 2), np.uint8)
  centres = [(0, 0), (3, 2), (5, 3)]
  result = augment.cut_out(jnp.asarray(images), jnp.array(centres), 3, (7.5, 9.0))
  expected = images.astype(np.float32)
  for image, (row, column) in zip(expected, centres, strict=True):
    image[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = (7.5, 9.0)
  np.testing.assert_array_equal(result, expected)
  centres = np.asarray(augment.draw_cutout(jax.random.key(0), 2000, (6, 4)))
  assert centres.min() == 0 and centres.max(0).tolist() == [5, 3]
  assert abs(np.bincount(centres[:, 0]) - 2000 / 6).max() < 80


def test_a_mixture_equals_numpy():
  images = np.random.default_rng(0).integers(0, 256, (4, 3, 2, 1), np.uint8)
  weight = np.array([[1, 1], [0.25, 0], [0, 0]], np.float32)
  mixture = augment.Mixture(jnp.array([2, 1, 3, 0]), jnp.asarray(weight))
  result = augment.mix(jnp.asarray(images), jnp.asarray(images)[mixture.partner], mixture)
  for i, partner in enumerate([2, 1, 3, 0]):
    np.testing.assert_allclose(
      result[i, ..., 0], weight * images[i, ..., 0] + (1 - weight) * images[partner, ..., 0], rtol=1e-6
    )
  np.testing.assert_allclose(mixture.share, 2.25 / 6)


@pytest.mark.parametrize(('mixup', 'cutmix'), [(0.4, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_mixtures_are_drawn_as_their_papers_have_them(mixup, cutmix):
  draw = jax.jit(jax.vmap(lambda key: augment.draw_mixture(key, 7, (16, 12), mixup, cutmix)))
  mixtures = draw(jax.random.split(jax.random.key(1), 2000))
  np.testing.assert_array_equal(np.sort(mixtures.partner, axis=1), np.tile(np.arange(7), (2000, 1)))
  weights = np.asarray(mixtures.weight)
  constant = (weights == weights[:, :1, :1]).all((1, 2))
  pasted = np.isin(weights, (0, 1)).all((1, 2))
  if not cutmix:  # the moments of Beta(a, a)
    assert constant.all()
    np.testing.assert_allclose([weights.mean(), weights[:, 0, 0].var()], [0.5, 1 / (4 * (2 * mixup + 1))], atol=0.02)
  elif not mixup:
    assert pasted.all()
    holes = 1 - weights
    boxes = holes.max(2).sum(1) * holes.max(1).sum(1)
    np.testing.assert_array_equal(boxes, holes.sum((1, 2)))  # a hole is a rectangle
    # Half of the area on average where nothing is clipped; of a uniform centre, less.
    assert 0.25 < holes.mean() < 0.45 and holes.mean((1, 2)).max() > 0.9
  else:
    assert abs(pasted.mean() - 0.5) < 0.05 and (pasted | constant).all()
