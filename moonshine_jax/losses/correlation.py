"""Distillation by correlation (DIST): predictions are to be related as the teacher's are, not to be equal."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from moonshine_jax.losses.divergence import subtract_largest
from moonshine_jax.losses.replicas import largest_over_replicas, mean_over_replicas

LEAST = -80.0  # the logarithm of a probability below which it is 0: beside it the others cannot be told from 1


def correlation_distillation(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  temperature: float,
  inter_weight: float = 2.0,
  intra_weight: float = 2.0,
  axis_name: str | None = None,
) -> jax.Array:
  """Computes DIST (Huang et al., NeurIPS 2022): T^2 (inter_weight (1 - r) + intra_weight (1 - s)).

  With p and q the softmax of the teacher's and the student's logits over T, r is Pearson's correlation of p and q over
  the classes of an example, and s, the mean over the classes of their correlation over the examples of the whole batch,
  on all replicas. Unlike in the released code no epsilon is beside the deviations: a correlation with what is constant
  is taken for 0, without a gradient.

  Temperatures may be from 1e-3 to 1e6. A logit of -inf masks a class, of which the probability is 0.

  Args:
    student_logits: (batch, classes).
    teacher_logits: (batch, classes).
    temperature: T > 0.
    inter_weight: the paper's beta.
    intra_weight: the paper's gamma.
    axis_name: of the replicas that share the batch; None for one.

  Returns:
    The loss, float32 (batch,); the second part is that of the batch, the same for all examples.
  """
  student = subtract_largest(student_logits) / temperature
  teacher = jax.lax.stop_gradient(subtract_largest(teacher_logits)) / temperature

  def over_classes(values: jax.Array) -> jax.Array:
    return values.mean(axis=-1, keepdims=True)

  def over_batch(values: jax.Array) -> jax.Array:
    return mean_over_replicas(values.mean(axis=0, keepdims=True), axis_name)

  # A correlation depends neither on a factor nor on a shift, so the probabilities are taken over the largest, less 1.
  of_examples = _one_less_correlation(jnp.expm1(student), jnp.expm1(teacher), over_classes)
  of_classes = _one_less_correlation(_over_largest(student, axis_name), _over_largest(teacher, axis_name), over_batch)
  return temperature**2 * (inter_weight * of_examples[:, 0] + intra_weight * of_classes.mean())


def _over_largest(logits: jax.Array, axis_name: str | None) -> jax.Array:
  """Returns the softmax of logits over its largest in the batch for each class, less 1; 0 where that largest is 0."""
  log_p = logits - jnp.log1p(jnp.expm1(logits).mean(axis=-1, keepdims=True))  # plus log(classes)
  largest = largest_over_replicas(log_p.max(axis=0), axis_name)
  vanishes = largest < LEAST
  return jnp.where(vanishes, 0, jnp.expm1(log_p - jnp.where(vanishes, 0, largest)))


def _one_less_correlation(student: jax.Array, teacher: jax.Array, mean: Callable[[jax.Array], jax.Array]) -> jax.Array:
  """Returns 1 less Pearson's correlation along the axis of `mean`, which keeps the axis.

  It is half the mean squared difference of what has the mean 0 and the deviation 1: no digits cancel where the two are
  nearly equal. Where one of them is constant it is 1.
  """
  student, teacher = student - mean(student), teacher - mean(teacher)
  squares = [mean(jnp.square(values)) for values in (student, teacher)]
  is_constant = (squares[0] == 0) | (squares[1] == 0)
  student, teacher = (
    jnp.where(is_constant, 0, values) * jax.lax.rsqrt(jnp.where(is_constant, 1, square))
    for values, square in zip((student, teacher), squares, strict=True)
  )
  return jnp.where(is_constant, 1, mean(jnp.square(student - teacher)) / 2)
