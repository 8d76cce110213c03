"""Losses of each example, in float32: cross entropy, knowledge distillation and attention transfer.

The paper's equations, the code behind its numbers and what the field settled on later differ, so each has a name:

* `released`: the form that made the paper's tables. The loss of Hinton et al. was written with PyTorch's mean over all
  elements, so the teacher's part is divided by the number of classes; attention maps are compared by their mean squared
  difference.
* `equation`: equations 1 and 2 as printed.
* `hinton`: of knowledge distillation alone; T^2 alpha KL, the form that the released code of attention transfer got
  later.

The caller takes the mean over the batch and applies alpha, its complement on the cross entropy, and beta.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

KD_FORMS = ('released', 'equation', 'hinton')
AT_FORMS = ('released', 'equation')


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Computes the cross entropy (batch,) of the softmax of logits (batch, classes) against integer labels (batch,)."""
  return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)


def knowledge_distillation(
  student_logits: jax.Array, teacher_logits: jax.Array, temperature: float, form: str = 'released'
) -> jax.Array:
  """Computes the part of equation 1 that alpha multiplies: the student's softened predictions against the teacher's.

  It is exact to float32 at every temperature from 1e-3 to 1e6, and passes its gradient to the student's logits alone.
  A logit of -inf masks a class: masked by the teacher it has the probability 0 and adds nothing to the loss; masked by
  the student alone it makes the loss infinite, unless its probability is 0 in float32.

  Args:
    student_logits: (batch, classes).
    teacher_logits: (batch, classes).
    temperature: T > 0.
    form: with p and q the softmax of the teacher's and the student's logits over T, 'released' gives
      2 T^2 KL(p, q) / classes, 'equation' 2 T^2 CE(p, q), 'hinton' T^2 KL(p, q).

  Returns:
    The loss, float32 (batch,).

  Raises:
    ValueError: for another form.
  """
  if form not in KD_FORMS:
    raise ValueError(f'{form!r} is not a form of knowledge distillation: expected one of {", ".join(KD_FORMS)}')
  student, teacher = _subtract_largest(student_logits), jax.lax.stop_gradient(_subtract_largest(teacher_logits))
  both_mask = jnp.isneginf(student) & jnp.isneginf(teacher)
  difference = jnp.where(both_mask, 0, jax.lax.stop_gradient(student) - teacher) / temperature
  student, teacher = student / temperature, teacher / temperature
  log_z = jax.nn.logsumexp(teacher, axis=-1, keepdims=True)
  log_p = teacher - log_z
  divergence = _kl_divergence(log_p, student - log_z, difference)
  if form == 'hinton':
    return temperature**2 * divergence
  if form == 'released':
    return 2 * temperature**2 * divergence / student.shape[-1]
  return 2 * temperature**2 * (divergence - _times(jnp.exp(log_p), log_p).sum(axis=-1))


def _subtract_largest(logits: jax.Array) -> jax.Array:
  """Returns logits in float32 less the largest of each row, a number that no softmax depends on."""
  logits = logits.astype(jnp.float32)
  return logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))


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
  mean = _times(p, difference).sum(axis=-1, keepdims=True)
  centred = difference - mean
  log_terms = student - mean  # of E[exp c], with the classes that the teacher masks
  log_scale = jnp.maximum(log_terms.max(axis=-1, keepdims=True) - 40, 0)  # taken out where they would overflow
  near = jnp.clip(centred, -0.5, 0.5)
  near_terms = p * near**2 * sum(near**k / math.factorial(k + 2) for k in range(7))  # by the series of exp
  far_terms = jnp.exp(log_terms - log_scale) - _times(jnp.exp(log_p - log_scale), 1 + centred)
  terms = jnp.where(near == centred, near_terms * jnp.exp(-log_scale), far_terms)
  divergence = log_scale + jnp.log1p(terms.sum(axis=-1, keepdims=True))
  divergence = jnp.where(jnp.isneginf(mean), jnp.inf, divergence)
  return divergence[:, 0], centred


def _times(p: jax.Array, x: jax.Array) -> jax.Array:
  """Multiplies by probabilities, of which 0 makes 0 of infinity too."""
  return jnp.where(p > 0, p * x, 0)


def attention_map(activation: jax.Array, size: Sequence[int] | None = None) -> jax.Array:
  """Computes the attention map of an activation: its squares, averaged over channels, flattened and L2-normalised.

  As in Zagoruyko and Komodakis (2017).

  Args:
    activation: (batch, height, width, channels).
    size: a height and a width, no larger than the activation's, to which the map is averaged before it is normalised:
      each new pixel is the mean over its share of the old pixels. None leaves the size as it is.

  Returns:
    float32 (batch, height * width) of norm 1, or 0 where the activation is 0.
  """
  squares = jnp.mean(jnp.square(activation.astype(jnp.float32)), axis=-1)
  if size is not None and tuple(size) != squares.shape[1:]:
    rows, columns = map(_shares, squares.shape[1:], size)
    squares = jnp.einsum('ij,bjk,lk->bil', rows, squares, columns, precision=jax.lax.Precision.HIGHEST)
  squares = squares.reshape(activation.shape[0], -1)
  # The norm does not depend on the scale, but would overflow. Where nothing is above 1, nothing changes.
  squares /= jax.lax.stop_gradient(jnp.maximum(squares.max(axis=-1, keepdims=True), 1))
  # Below the least norm the map, and its gradient, go to zero instead of to not-a-number.
  return squares * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(squares), axis=-1, keepdims=True), 1e-24))


def _shares(size: int, fewer: int) -> np.ndarray:
  """Returns (fewer, size): the share of every old pixel in the mean of every one of the `fewer` new pixels."""
  edges = np.arange(fewer + 1)[:, None] * size / fewer
  pixels = np.arange(size)
  overlaps = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
  return np.maximum(overlaps, 0).astype(np.float32) * fewer / size


def attention_transfer(
  student_activations: Sequence[jax.Array], teacher_activations: Sequence[jax.Array], form: str = 'released'
) -> jax.Array:
  """Computes the part of equation 2 that beta multiplies: the distance of attention maps, summed over the layers.

  Args:
    student_activations: an activation (batch, height, width, channels) of each layer.
    teacher_activations: as many activations of the same batch; where heights or widths differ, the larger map is
      averaged to the smaller; the channels may differ.
    form: the distance of two maps: 'released' is their mean squared difference, 'equation' the L2 norm of their
      difference.

  Returns:
    The loss, (batch,).

  Raises:
    ValueError: for another form, or where the numbers of layers differ.
  """
  total = jnp.zeros((), jnp.float32)
  for student, teacher in zip(student_activations, teacher_activations, strict=True):
    size = tuple(map(min, student.shape[1:3], teacher.shape[1:3]))
    squares = jnp.square(attention_map(student, size) - attention_map(teacher, size))
    if form == 'released':
      total += jnp.mean(squares, axis=-1)
    elif form == 'equation':
      distance = jnp.sum(squares, axis=-1)
      # The square root has no gradient at zero, where the maps agree; the inner choice keeps it finite there.
      total += jnp.where(distance > 0, jnp.sqrt(jnp.where(distance > 0, distance, 1.0)), 0.0)
    else:
      raise ValueError(f'{form!r} is not a form of attention transfer: expected one of {", ".join(AT_FORMS)}')
  return total
