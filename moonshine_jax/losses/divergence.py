"""The Kullback-Leibler divergence of softened predictions, exact to float32 at every temperature from 1e-3 to 1e6."""

import math

import jax
import jax.numpy as jnp


def subtract_largest(logits: jax.Array) -> jax.Array:
  """Returns logits in float32 less the largest of each row, a number that no softmax depends on."""
  logits = logits.astype(jnp.float32)
  return logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))


def divide_by_temperature(
  student_logits: jax.Array, teacher_logits: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Divides logits (batch, classes) by a temperature.

  Returns:
    The student's; the teacher's, constants; and the student's less the teacher's, constants that were subtracted before
    they were divided and rounded, and are 0 for a class that both mask by -inf.
  """
  student, teacher = subtract_largest(student_logits), jax.lax.stop_gradient(subtract_largest(teacher_logits))
  both_mask = jnp.isneginf(student) & jnp.isneginf(teacher)
  difference = jnp.where(both_mask, 0, jax.lax.stop_gradient(student) - teacher) / temperature
  return student / temperature, teacher / temperature, difference


def divergence_of_logits(student: jax.Array, teacher: jax.Array, difference: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Computes KL(p, q), p and q being the softmax of the teacher's and the student's logits.

  Args:
    student: (batch, classes).
    teacher: (batch, classes), constants.
    difference: (batch, classes), `student` less `teacher` as exactly as it can be had.

  Returns:
    The divergence (batch,), and the logarithms of p (batch, classes).
  """
  log_z = jax.nn.logsumexp(teacher, axis=-1, keepdims=True)
  log_p = teacher - log_z
  return _kl_divergence(log_p, student - log_z, difference), log_p


@jax.custom_jvp
def _kl_divergence(log_p: jax.Array, student: jax.Array, difference: jax.Array) -> jax.Array:
  """Computes KL(p, q) from differences of logits, which stay exact where p and q are nearly equal.

  Args:
    log_p: (batch, classes), the logarithms of p, which are constants.
    student: (batch, classes), logits of which q is the softmax.
    difference: (batch, classes), `student` less `log_p`, from logits that were not divided and rounded yet.

  Returns:
    (batch,), the gradient of which with respect to `student` is q - p.
  """
  return _divergence_and_centred(log_p, student, difference)[0]


@_kl_divergence.defjvp
def _kl_divergence_jvp(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
  log_p, student, difference = primals
  divergence, centred = _divergence_and_centred(log_p, student, difference)
  p, q, log_ratio = jnp.exp(log_p), jax.nn.softmax(student), centred - divergence[:, None]
  # Nearly equal, q and p cancel; far apart, the parts of log(q / p) do.
  gradient = jnp.where(jnp.abs(centred) + divergence[:, None] < 1, p * jnp.expm1(log_ratio), q - p)
  return divergence, (gradient * tangents[1]).sum(axis=-1)


def _divergence_and_centred(log_p: jax.Array, student: jax.Array, difference: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Computes KL(p, q), (batch,), and the differences of the logits less their expectation under p, (batch, classes).

  With c these differences, KL = log E[exp c] = log(1 + E[exp(c) - 1 - c]): a
  sum of what is not negative, in which no digits cancel.
  """
  p = jnp.exp(log_p)
  mean = times(p, difference).sum(axis=-1, keepdims=True)
  centred = difference - mean
  log_terms = student - mean  # of E[exp c], with the classes that the teacher masks
  log_scale = jnp.maximum(log_terms.max(axis=-1, keepdims=True) - 40, 0)  # taken out where they would overflow
  near = jnp.clip(centred, -0.5, 0.5)
  near_terms = p * near**2 * sum(near**k / math.factorial(k + 2) for k in range(7))  # by the series of exp
  far_terms = jnp.exp(log_terms - log_scale) - times(jnp.exp(log_p - log_scale), 1 + centred)
  terms = jnp.where(near == centred, near_terms * jnp.exp(-log_scale), far_terms)
  divergence = log_scale + jnp.log1p(terms.sum(axis=-1, keepdims=True))
  divergence = jnp.where(jnp.isneginf(mean), jnp.inf, divergence)
  return divergence[:, 0], centred


def times(p: jax.Array, x: jax.Array) -> jax.Array:
  """Multiplies by probabilities, of which 0 makes 0 of infinity too."""
  return jnp.where(p > 0, p * x, 0)
