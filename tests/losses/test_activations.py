"""Losses of activations against values worked out by hand, gradients against finite differences, and the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moonshine_jax import losses

RNG = np.random.default_rng(0)


def directional_difference(function, x, direction, step=1e-3):
  """The central difference of a float64 reference along a direction."""
  return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


def test_attention_transfer_by_hand():
  # Maps of one layer of 1x2 pixels and 2 channels: mean squares (9, 12) -> (3, 4) / 5, and (5, 0) -> (1, 0).
  student = jnp.array([[[[3.0, 3.0], [np.sqrt(24), 0.0]]]])
  teacher = jnp.array([[[[1.0, 3.0], [0.0, 0.0]]]])
  np.testing.assert_allclose(losses.attention_map(student), [[0.6, 0.8]], rtol=1e-6)
  squares = 0.4**2 + 0.8**2
  expected = {'released': squares / 2, 'equation': np.sqrt(squares)}
  for form, value in expected.items():
    np.testing.assert_allclose(losses.attention_transfer([student], [teacher], form), [value], rtol=1e-5)
    np.testing.assert_allclose(losses.attention_transfer([student] * 3, [teacher] * 3, form), [3 * value], rtol=1e-5)


def test_attention_transfer_ignores_the_number_of_channels_and_the_scale():
  student = RNG.normal(size=(2, 4, 4, 6))
  for form in losses.activations.MAP_FORMS:
    for teacher in (np.concatenate([student, student], -1), student * 17, student[..., ::-1]):
      np.testing.assert_allclose(losses.attention_transfer([student], [teacher], form), 0, atol=1e-6)


def reference_at(student, teacher, form):
  maps = [(x**2).mean(-1).reshape(len(x), -1) for x in (student, teacher)]
  difference = np.subtract(*(x / np.linalg.norm(x, axis=-1, keepdims=True) for x in maps))
  return (difference**2).mean(-1) if form == 'released' else np.linalg.norm(difference, axis=-1)


@pytest.mark.parametrize('form', losses.activations.MAP_FORMS)
def test_attention_transfer_gradient(form):
  student, teacher = RNG.normal(size=(2, 3, 4, 5, 6))
  direction = RNG.normal(size=student.shape)
  value, gradient = jax.value_and_grad(lambda s: losses.attention_transfer([s], [teacher], form).sum())(
    jnp.asarray(student)
  )
  np.testing.assert_allclose(value, reference_at(student, teacher, form).sum(), rtol=1e-5)
  expected = directional_difference(lambda s: reference_at(s, teacher, form).sum(), student, direction)
  np.testing.assert_allclose((gradient * direction).sum(), expected, rtol=1e-4)


@pytest.mark.parametrize('form', losses.activations.MAP_FORMS)
def test_attention_transfer_at_zero_and_at_equal_maps(form):
  zero, one = jnp.zeros((2, 3, 3, 4)), jnp.ones((2, 3, 3, 4))
  for student, teacher in [(zero, one), (zero, zero), (one, one), (one, zero)]:
    value, gradient = jax.value_and_grad(
      lambda s, teacher=teacher: losses.attention_transfer([s], [teacher], form).sum()
    )(student)
    assert np.isfinite(value) and np.isfinite(gradient).all()
  # Against the zero map, the normalised map of ones alone is left.
  expected = 1 / 9 if form == 'released' else 1.0
  np.testing.assert_allclose(losses.attention_transfer([zero], [one], form), expected, rtol=1e-5)


def test_the_larger_map_is_averaged_to_the_smaller():
  # 2x3 to 2x2: the middle column falls to both sides by halves.
  larger = np.sqrt([[[6.0, 3.0, 9.0], [0.0, 6.0, 12.0]]])[..., None]
  averaged = np.array([[(6 + 1.5), (9 + 1.5)], [3, (12 + 3)]]) / 1.5
  np.testing.assert_allclose(
    losses.attention_map(larger, (2, 2)), averaged.reshape(1, 4) / np.linalg.norm(averaged), rtol=1e-6
  )
  # 4x6 to 2x3 are the means of 2x2 pixels; of maps that differ both ways each gives up an axis.
  student, teacher = RNG.normal(size=(2, 4, 6, 5)), RNG.normal(size=(2, 2, 3, 7))

  def pooled(x, rows, columns):
    return np.sqrt((x**2).mean(-1).reshape(2, x.shape[1] // rows, rows, -1, columns).mean((2, 4)))[..., None]

  for form in losses.activations.MAP_FORMS:
    for ours, theirs in [
      ((student, teacher), (pooled(student, 2, 2), teacher)),
      ((teacher, student), (teacher, pooled(student, 2, 2))),
      ((student[:, :2], teacher[:, :, :1]), (pooled(student[:, :2], 1, 6), teacher[:, :, :1])),
    ]:
      np.testing.assert_allclose(
        losses.attention_transfer([ours[0]], [ours[1]], form), reference_at(*theirs, form), rtol=1e-4
      )


@pytest.mark.parametrize('scale', [1e-4, 1e9, 1e12, 1e18])
def test_attention_maps_of_small_and_of_huge_activations(scale):
  activation = RNG.normal(size=(2, 4, 5, 6))
  maps = (activation**2).mean(-1).reshape(2, -1)
  maps /= np.linalg.norm(maps, axis=-1, keepdims=True)
  np.testing.assert_allclose(losses.attention_map(jnp.asarray(activation * scale, jnp.float32)), maps, rtol=1e-5)


def reference_nmse(student, teacher):
  return ((student - teacher) ** 2).mean((1, 2, 3)) / (teacher**2).mean()


def reference_similarity(student, teacher):
  rows = [x.reshape(len(x), -1) for x in (student, teacher)]
  products = [x @ x.T for x in rows]
  difference = np.subtract(*(x / np.linalg.norm(x, axis=1, keepdims=True) for x in products))
  return (difference**2).sum(1) / len(student)


WHOLE = {
  'nmse': (losses.normalised_squared_error, reference_nmse),
  'similarity': (losses.similarity_preservation, reference_similarity),
}


@pytest.mark.parametrize('form', WHOLE)
def test_forms_of_the_whole_activation(form):
  loss, reference = WHOLE[form]
  student, teacher = RNG.normal(size=(2, 3, 4, 5, 6))
  if form == 'similarity':
    teacher = RNG.normal(size=(3, 2, 2, 7))
  direction = RNG.normal(size=student.shape)
  value, gradient = jax.value_and_grad(lambda s: loss([s, s], [teacher, teacher]).mean())(jnp.asarray(student))
  np.testing.assert_allclose(value, 2 * reference(student, teacher).mean(), rtol=1e-5)
  expected = directional_difference(lambda s: 2 * reference(s, teacher).mean(), student, direction)
  np.testing.assert_allclose((gradient * direction).sum(), expected, rtol=1e-4)
  for scale in (1e-3, 1e18):  # nothing overflows, and neither depends on the scale
    np.testing.assert_allclose(
      loss([jnp.asarray(scale * student, jnp.float32)], [jnp.asarray(scale * teacher, jnp.float32)]),
      reference(student, teacher),
      rtol=1e-4,
    )
  zero, one = jnp.zeros((2, 3, 3, 4)), jnp.ones((2, 3, 3, 4))
  for ours, theirs in [(zero, one), (zero, zero), (one, one), (one, zero)]:
    value, gradient = jax.value_and_grad(lambda s, theirs=theirs: loss([s], [theirs]).mean())(ours)
    assert np.isfinite(value) and np.isfinite(gradient).all()
  assert loss([one[:1]], [one[:1]]) == 0  # one example


def test_whole_activations_by_hand():
  student, teacher = jnp.array([3.0, 0.0]).reshape(2, 1, 1, 1), jnp.array([4.0, 2.0]).reshape(2, 1, 1, 1)
  np.testing.assert_allclose(losses.normalised_squared_error([student], [teacher]), [0.1, 0.4], rtol=1e-6)
  # The student's second example is like none; the teacher's rows are (16, 8) and (8, 4), of the direction (2, 1).
  square = (1 - 2 / np.sqrt(5)) ** 2 + 1 / 5
  np.testing.assert_allclose(losses.similarity_preservation([student], [teacher]), [square / 2, 1 / 2], rtol=1e-5)


def test_bfloat16_is_computed_in_float32():
  student, teacher = jnp.asarray(RNG.normal(size=(2, 3, 4, 4, 8)), jnp.bfloat16)
  for loss, reference in [
    (losses.attention_transfer, lambda *activations: reference_at(*activations, 'released')),
    *WHOLE.values(),
  ]:
    value = loss([student], [teacher])
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, reference(np.float64(student), np.float64(teacher)), rtol=1e-4)


def test_what_does_not_correspond_is_refused():
  one = jnp.ones((1, 2, 2, 1))
  with pytest.raises(ValueError, match='expected one of released, equation'):
    losses.attention_transfer([one], [one], 'hinton')
  with pytest.raises(ValueError, match='expected equal shapes'):
    losses.normalised_squared_error([one], [jnp.ones((1, 2, 2, 2))])
  for loss in (losses.attention_transfer, losses.normalised_squared_error, losses.similarity_preservation):
    with pytest.raises(ValueError):
      loss([one], [])
