"""Every form against values worked out by hand, against its definition in 40 digits, and at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moonshine_jax import losses
from tests.helpers import exact_losses

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


def kd_and_gradient(student, teacher, temperature, form='hinton'):
  return jax.jit(
    jax.value_and_grad(lambda s: losses.knowledge_distillation(s, teacher, temperature, form).sum()),
  )(student)


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


@pytest.mark.parametrize('form', exact_losses.FORMS)
@pytest.mark.parametrize('temperature', [1e-3, 1.0, 20.0, 1e6])
def test_each_form_is_exact_at_every_temperature(form, temperature):
  rng = np.random.default_rng(1)
  noise, teacher = rng.normal(size=(2, 3, 5)).astype(np.float32) * 5
  directions = rng.normal(size=(2, 3, 5)).astype(np.float32)
  temperature = np.float32(temperature)
  for student in (noise + 300, teacher + 0.1 * noise - 100):  # far from the teacher, and near to it
    value, gradient = exact_losses.value_and_gradient(form)(student, teacher, LABELS, temperature)
    expected, slopes = exact_losses.value_and_slopes(form, student, teacher, LABELS, temperature, directions)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-30)
    # What is nearly one-hot passes next to nothing on: beside T, an absolute error.
    slope_error = 1e-4 * np.abs(gradient).max() + 1e-6 * temperature
    np.testing.assert_allclose((gradient * directions).sum((1, 2)), slopes, rtol=0, atol=slope_error)


@pytest.mark.parametrize('form', exact_losses.FORMS)
def test_each_form_at_zero_logits_of_one_example_and_in_bfloat16(form):
  zero = np.zeros((1, 5), np.float32)
  for student, teacher in [(zero, zero), (np.float32(STUDENT[:1]), zero), (zero, np.float32(TEACHER[:1]))]:
    value, gradient = exact_losses.value_and_gradient(form)(student, teacher, LABELS[:1], np.float32(4))
    assert np.isfinite(value) and np.isfinite(gradient).all()
  student, teacher = (jnp.asarray(x, jnp.bfloat16) for x in (STUDENT, TEACHER))
  value, gradient = exact_losses.value_and_gradient(form)(student, teacher, LABELS, np.float32(4))
  assert value.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16 and np.isfinite(np.float32(gradient)).all()
  expected, _ = exact_losses.value_and_slopes(form, student, teacher, LABELS, 4.0, ())
  np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize('form', exact_losses.FORMS)
def test_each_form_of_huge_and_of_masked_logits(form):
  def value_and_gradient(student, teacher):
    return exact_losses.value_and_gradient(form)(student, teacher, LABELS % 4, np.float32(4))

  student, teacher = np.float32(STUDENT), np.float32(TEACHER)
  mask = np.array([0, 0, 0, 0, -np.inf], np.float32)
  value, gradient = value_and_gradient(student + mask, teacher + mask)
  assert np.isfinite(value) and np.isfinite(gradient).all() and not gradient[:, 4].any()
  if form not in ('released', 'dist'):  # a class that both mask is none, but for those that divide by the classes
    unmasked, unmasked_gradient = value_and_gradient(student[:, :4], teacher[:, :4])
    np.testing.assert_allclose(value, unmasked, rtol=1e-5)
    np.testing.assert_allclose(gradient[:, :4], unmasked_gradient, rtol=1e-4, atol=1e-5)
  for scale in (1e5, 1e37):
    value, gradient = value_and_gradient(student * np.float32(scale), teacher)
    assert value > 0 and np.isfinite(gradient).all()
  for bad in (np.nan, np.inf):
    teacher[0, 2] = bad
    assert not np.isfinite(value_and_gradient(student, teacher)[0])


def test_decoupled_distillation_by_hand():
  # T = 1, the label is the first class: the teacher's probabilities are (1/2, 1/4, 1/4), the student's (1/4, 1/4, 1/2).
  teacher, student = np.log([[2, 1, 1]]), np.log([[1, 1, 2]])
  of_target = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
  of_others = 0.5 * np.log(0.5 * 3) + 0.5 * np.log(0.5 * 3 / 2)
  loss = losses.decoupled_distillation(student, teacher, jnp.array([0]), 1.0, 3.0, 5.0)
  np.testing.assert_allclose(loss, [3 * of_target + 5 * of_others], rtol=1e-5)
  # With the weight 1 - p of the label it is Hinton's form.
  hinton = losses.knowledge_distillation(student, teacher, 1.0, 'hinton')
  np.testing.assert_allclose(
    losses.decoupled_distillation(student, teacher, jnp.array([0]), 1.0, 1.0, 0.5), hinton, rtol=1e-5
  )


@pytest.mark.parametrize(
  ('student', 'teacher', 'value'),
  [
    ([3.0], [5.0], 0),  # one class
    ([0, 0], [np.log(3), 0], 0.75 * np.log(1.5) + 0.25 * np.log(0.5)),  # two: TCKD alone
    ([0, 0, 0], [0, -np.inf, -np.inf], np.log(3)),  # the teacher leaves the label alone
    ([0, -np.inf, 0], [0, 0, 0], np.inf),  # the student masks what the teacher has
    ([-np.inf, 0, 0], [-np.inf, 0, 0], 0),  # both mask the label
    ([0, -1e4, 0], [0, 0, 0], 5 / 3 * np.log(2) - np.log(3) + 6 * (5e3 - np.log(2))),
  ],
)
def test_decoupled_distillation_where_classes_are_missing(student, teacher, value):
  loss, gradient = exact_losses.value_and_gradient('dkd')(
    jnp.array([student], jnp.float32), jnp.array([teacher], jnp.float32), jnp.array([0]), np.float32(1)
  )
  np.testing.assert_allclose(loss, value, rtol=1e-5, atol=1e-6)
  assert np.isfinite(gradient).all() or value == np.inf


def test_transformed_teacher_matching_by_hand():
  # g = 1/2: p = (16, 1) / 17 to the power of g is (4, 1) / sqrt(17), of the sum 5 / sqrt(17); q is (1/2, 1/2).
  divergence = 0.8 * np.log(0.8 / 0.5) + 0.2 * np.log(0.2 / 0.5)
  loss = losses.transformed_teacher_matching(np.zeros((1, 2)), np.array([[np.log(16), 0]]), 2.0)
  np.testing.assert_allclose(loss, [5 / np.sqrt(17) * divergence], rtol=1e-5)


def test_correlation_by_hand():
  # T = 1. The probabilities of two classes, or of two examples, are correlated by 1 or by -1.
  student, teacher = np.log([[1.0, 3.0], [3.0, 1.0]]), np.log([[1.0, 2.0], [2.0, 1.0]])
  np.testing.assert_allclose(losses.correlation_distillation(student, teacher, 1.0), [0, 0], atol=1e-6)
  np.testing.assert_allclose(losses.correlation_distillation(student, -teacher, 1.0), [8, 8], rtol=1e-6)
  student[1] = student[0]  # a student that says the same of all: nothing to correlate over the batch
  np.testing.assert_allclose(losses.correlation_distillation(student, teacher, 1.0, 3, 5), [5, 3 * 2 + 5], rtol=1e-6)


def test_standardised_by_hand():
  # Mean 2, deviation with the divisor 2: sqrt((1 + 1) / 2) = 1.
  np.testing.assert_allclose(losses.standardise(np.array([[1.0, 2.0, 3.0]])), [[-1, 0, 1]], rtol=1e-6)
  np.testing.assert_allclose(
    losses.standardise(np.array([[1.0, 2.0, -np.inf, 3.0]]))[0], [-1, 0, -np.inf, 1], rtol=1e-6
  )
  for scale in (1e-3, 1e9, 1e37):
    np.testing.assert_allclose(
      losses.standardise(np.array([[1.0, 2.0, 3.0]]) * scale), [[-1, 0, 1]], rtol=2e-4, atol=1e-6
    )


def test_smoothed_labels_are_the_mixture_of_the_label_and_of_all_classes():
  log_q = STUDENT - np.log(np.exp(STUDENT).sum(-1, keepdims=True))
  target = 0.1 / 5 + 0.9 * np.eye(5)[np.array(LABELS)]
  np.testing.assert_allclose(losses.cross_entropy(STUDENT, LABELS, 0.1), -(target * log_q).sum(-1), rtol=1e-5)


def test_another_form_is_refused():
  with pytest.raises(ValueError, match='expected one of released, equation, hinton'):
    losses.knowledge_distillation(STUDENT, TEACHER, 4.0, 'printed')
