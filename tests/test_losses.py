"""Every form against values worked out by hand, gradients against finite differences, and the edges."""

import decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moonshine_jax import losses

RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 3, 5)) * 3
LABELS = jnp.array([0, 4, 2])


def test_cross_entropy_by_hand():
  # Probabilities 1/4, 1/4 and 1/2, and one certain to float32.
  logits = jnp.array([[0.0, 0.0, np.log(2)], [100.0, 0.0, 0.0]])
  np.testing.assert_allclose(losses.cross_entropy(logits, jnp.array([0, 0])), [np.log(4), 0.0], rtol=1e-6, atol=1e-7)


def test_knowledge_distillation_by_hand():
  # T = 2: the teacher's softened probabilities are (3/4, 1/4), the student's (1/2, 1/2).
  teacher, student = jnp.array([[2 * np.log(3), 0.0]]), jnp.array([[1.0, 1.0]])
  kl = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
  expected = {'released': 2 * 4 * kl / 2, 'equation': 2 * 4 * np.log(2), 'hinton': 4 * kl}
  for form, value in expected.items():
    np.testing.assert_allclose(losses.knowledge_distillation(student, teacher, 2.0, form), [value], rtol=1e-5)


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
  for form in losses.AT_FORMS:
    for teacher in (np.concatenate([student, student], -1), student * 17, student[..., ::-1]):
      np.testing.assert_allclose(losses.attention_transfer([student], [teacher], form), 0, atol=1e-6)


def directional_difference(function, x, direction, step=1e-3):
  """The central difference of a float64 reference along a direction."""
  return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


def reference_kd(student, teacher, temperature, form):
  p, q = (np.exp(x / temperature) / np.exp(x / temperature).sum(-1, keepdims=True) for x in (teacher, student))
  kl, ce = (p * np.log(p / q)).sum(-1), -(p * np.log(q)).sum(-1)
  return {'released': 2 * kl / student.shape[-1], 'equation': 2 * ce, 'hinton': kl}[form] * temperature**2


@pytest.mark.parametrize('form', losses.KD_FORMS)
def test_knowledge_distillation_gradient(form):
  direction = RNG.normal(size=STUDENT.shape)
  value, gradient = jax.value_and_grad(lambda s: losses.knowledge_distillation(s, TEACHER, 4.0, form).sum())(
    jnp.asarray(STUDENT)
  )
  np.testing.assert_allclose(value, reference_kd(STUDENT, TEACHER, 4.0, form).sum(), rtol=1e-5)
  expected = directional_difference(lambda s: reference_kd(s, TEACHER, 4.0, form).sum(), STUDENT, direction)
  np.testing.assert_allclose((gradient * direction).sum(), expected, rtol=1e-4)


def reference_at(student, teacher, form):
  maps = [(x**2).mean(-1).reshape(len(x), -1) for x in (student, teacher)]
  difference = np.subtract(*(x / np.linalg.norm(x, axis=-1, keepdims=True) for x in maps))
  return (difference**2).mean(-1) if form == 'released' else np.linalg.norm(difference, axis=-1)


@pytest.mark.parametrize('form', losses.AT_FORMS)
def test_attention_transfer_gradient(form):
  student, teacher = RNG.normal(size=(2, 3, 4, 5, 6))
  direction = RNG.normal(size=student.shape)
  value, gradient = jax.value_and_grad(lambda s: losses.attention_transfer([s], [teacher], form).sum())(
    jnp.asarray(student)
  )
  np.testing.assert_allclose(value, reference_at(student, teacher, form).sum(), rtol=1e-5)
  expected = directional_difference(lambda s: reference_at(s, teacher, form).sum(), student, direction)
  np.testing.assert_allclose((gradient * direction).sum(), expected, rtol=1e-4)


@pytest.mark.parametrize('form', losses.AT_FORMS)
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

  for form in losses.AT_FORMS:
    for ours, theirs in [
      ((student, teacher), (pooled(student, 2, 2), teacher)),
      ((teacher, student), (teacher, pooled(student, 2, 2))),
      ((student[:, :2], teacher[:, :, :1]), (pooled(student[:, :2], 1, 6), teacher[:, :, :1])),
    ]:
      np.testing.assert_allclose(
        losses.attention_transfer([ours[0]], [ours[1]], form), reference_at(*theirs, form), rtol=1e-4
      )


def exact_kd(student, teacher, temperature, form):
  """The loss and its gradient with respect to the student's logits in 60 digits, by the definitions."""
  with decimal.localcontext(prec=60):
    temperature = decimal.Decimal(float(temperature))
    student, teacher = ([decimal.Decimal(float(x)) / temperature for x in row] for row in (student, teacher))
    q, p = ([x.exp() / sum(y.exp() for y in row) for x in row] for row in (student, teacher))
    kl = sum(a * (a / b).ln() for a, b in zip(p, q, strict=True))
    ce = -sum(a * b.ln() for a, b in zip(p, q, strict=True))
    value = {'released': 2 * kl / len(p), 'equation': 2 * ce, 'hinton': kl}[form] * temperature**2
    slope = {'released': decimal.Decimal(2) / len(p), 'equation': 2, 'hinton': 1}[form] * temperature
    return float(value), [float(slope * (b - a)) for a, b in zip(p, q, strict=True)]


def kd_and_gradient(student, teacher, temperature, form='hinton'):
  return jax.jit(
    jax.value_and_grad(lambda s: losses.knowledge_distillation(s, teacher, temperature, form).sum()),
  )(student)


@pytest.mark.parametrize('form', losses.KD_FORMS)
@pytest.mark.parametrize('temperature', [1e-3, 0.1, 1.0, 20.0, 1e3, 1e4, 1e6])
def test_knowledge_distillation_is_exact_at_every_temperature(form, temperature):
  rng = np.random.default_rng(1)
  noise, teacher = rng.normal(size=(2, 10)).astype(np.float32) * 5
  for student in (noise + 300, teacher + 0.1 * noise - 100):  # far from the teacher, and near to it
    value, gradient = kd_and_gradient(student[None], teacher[None], np.float32(temperature), form)
    expected, slope = exact_kd(student, teacher, np.float32(temperature), form)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(gradient[0], slope, rtol=0, atol=1e-5 * np.abs(slope).max() + 1e-30)


@pytest.mark.parametrize(
  ('student', 'teacher', 'value', 'gradient'),
  [
    ([1e4, -1e4, 0], [-1e4, 1e4, 0], 2e4, [1, -1, 0]),
    ([1e38, 0, -1e38], [9, 0, 0], 3.701380549e34, [2.4676e-4, -1.2338e-4, -1.2338e-4]),
    ([0, 0, -np.inf], [np.log(3), 0, -np.inf], 0.75 * np.log(1.5) + 0.25 * np.log(0.5), [-0.25, 0.25, 0]),
    ([0, 0, 0], [0, 0, -np.inf], np.log(1.5), [-1 / 6, -1 / 6, 1 / 3]),
    ([0, 0, -np.inf], [0, 0, -1e4], 0, [0, 0, 0]),
    ([0, 0, -np.inf], [0, 0, 0], np.inf, None),
    ([0, 0, np.nan], [0, 0, -np.inf], np.nan, None),
    ([0, 0, 0], [0, 0, np.inf], np.nan, None),
    ([0, 0, 0], [0, 0, np.nan], np.nan, None),
    ([5], [7], 0, [0]),
  ],
)
def test_logits_that_are_huge_or_not_finite(student, teacher, value, gradient):
  loss, slope = kd_and_gradient(*(jnp.array([x], jnp.float32) for x in (student, teacher)), 1.0)
  np.testing.assert_allclose(loss, value, rtol=1e-6)
  if gradient is not None:
    np.testing.assert_allclose(slope, [gradient], atol=1e-6)


def test_knowledge_distillation_in_forward_mode():
  student, teacher, direction = jnp.asarray(STUDENT), jnp.asarray(TEACHER), jnp.ones((3, 5)).at[:, 0].set(-2)
  value, tangent = jax.jvp(lambda s: losses.knowledge_distillation(s, teacher, 4.0).sum(), (student,), (direction,))
  _, gradient = kd_and_gradient(student, teacher, 4.0, 'released')
  assert value > 0
  np.testing.assert_allclose(tangent, (gradient * direction).sum(), rtol=1e-5)


@pytest.mark.parametrize('scale', [1e-4, 1e9, 1e12, 1e18])
def test_attention_maps_of_small_and_of_huge_activations(scale):
  activation = RNG.normal(size=(2, 4, 5, 6))
  maps = (activation**2).mean(-1).reshape(2, -1)
  maps /= np.linalg.norm(maps, axis=-1, keepdims=True)
  np.testing.assert_allclose(losses.attention_map(jnp.asarray(activation * scale, jnp.float32)), maps, rtol=1e-5)


def test_bfloat16_is_computed_in_float32():
  student, teacher = (jnp.asarray(x, jnp.bfloat16) for x in (STUDENT, TEACHER))
  activations = jnp.asarray(RNG.normal(size=(2, 3, 4, 4, 8)), jnp.bfloat16)
  for result, exact in [
    (losses.cross_entropy(student, LABELS), losses.cross_entropy(student.astype(jnp.float32), LABELS)),
    (
      losses.knowledge_distillation(student, teacher, 4.0),
      reference_kd(np.float64(student), np.float64(teacher), 4.0, 'released'),
    ),
    (
      losses.attention_transfer([activations[0]], [activations[1]]),
      reference_at(np.float64(activations[0]), np.float64(activations[1]), 'released'),
    ),
  ]:
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, exact, rtol=1e-4)
  gradient = jax.grad(lambda s: losses.knowledge_distillation(s, teacher, 4.0).sum())(student)
  assert gradient.dtype == jnp.bfloat16 and np.isfinite(np.float32(gradient)).all()


def test_what_does_not_correspond_is_refused():
  with pytest.raises(ValueError, match='expected one of released, equation, hinton'):
    losses.knowledge_distillation(STUDENT, TEACHER, 4.0, 'printed')
  with pytest.raises(ValueError, match='expected one of released, equation'):
    losses.attention_transfer([jnp.ones((1, 2, 2, 1))], [jnp.ones((1, 2, 2, 1))], 'hinton')
  with pytest.raises(ValueError):
    losses.attention_transfer([jnp.ones((1, 2, 2, 1))], [])
