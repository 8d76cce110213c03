"""Losses of logits: cross entropy with labels, and the forms of knowledge distillation that are a KL divergence."""

import jax
import jax.numpy as jnp
import optax

from moonshine_jax.losses.divergence import divergence_of_logits, divide_by_temperature, subtract_largest, times

KL_FORMS = ('released', 'equation', 'hinton')


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
  """Computes the cross entropy of the softmax of logits against labels.

  Args:
    logits: (batch, classes).
    labels: integers (batch,).
    smoothing: the share of the target that all classes have alike (label smoothing: Szegedy et al., 2016).

  Returns:
    The loss, float32 (batch,).
  """
  logits = logits.astype(jnp.float32)
  of_label = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  if not smoothing:
    return of_label
  return (1 - smoothing) * of_label - smoothing * jax.nn.log_softmax(logits).mean(axis=-1)


def standardise(logits: jax.Array) -> jax.Array:
  """Standardises logits (Sun et al., CVPR 2024): each row less its mean, over 1e-7 and its standard deviation.

  The standard deviation has the divisor classes - 1, as in their code. A class that is masked by -inf stays so, and
  counts for nothing. Where all logits are equal they become 0.

  Args:
    logits: (batch, classes), of any scale that float32 has.

  Returns:
    float32 (batch, classes).
  """
  seen = ~jnp.isneginf(logits)
  logits = jnp.where(seen, subtract_largest(logits), 0)
  # Neither result depends on the scale, but squares would overflow. Where nothing is above 1, nothing changes.
  scale = jax.lax.stop_gradient(jnp.maximum(jnp.abs(logits).max(axis=-1, keepdims=True), 1))
  logits /= scale
  count = seen.sum(axis=-1, keepdims=True)
  centred = jnp.where(seen, logits - logits.sum(axis=-1, keepdims=True) / jnp.maximum(count, 1), 0)
  variance = jnp.square(centred).sum(axis=-1, keepdims=True) / jnp.maximum(count - 1, 1)
  # The square root has no gradient at zero; the inner choice keeps it finite there.
  deviation = jnp.where(variance == 0, 0, jnp.sqrt(jnp.where(variance == 0, 1, variance)))
  return jnp.where(seen, centred / (1e-7 / scale + deviation), -jnp.inf)


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
  if form not in KL_FORMS:
    raise ValueError(f'{form!r} is not a form of KL: expected one of {", ".join(KL_FORMS)}')
  student, teacher, difference = divide_by_temperature(student_logits, teacher_logits, temperature)
  divergence, log_p = divergence_of_logits(student, teacher, difference)
  if form == 'hinton':
    return temperature**2 * divergence
  if form == 'released':
    return 2 * temperature**2 * divergence / student.shape[-1]
  return 2 * temperature**2 * (divergence - times(jnp.exp(log_p), log_p).sum(axis=-1))


def transformed_teacher_matching(student_logits: jax.Array, teacher_logits: jax.Array, temperature: float) -> jax.Array:
  """Computes weighted transformed teacher matching (WTTM: Zheng and Yang, ICLR 2024).

  With p the softmax of the teacher's logits, q that of the student's, both without a temperature, and g = 1 / T, it is
  U KL(p^g / U, q), where U is the sum of p^g: the teacher alone is softened, and counts more where it is less sure.
  There is no factor T^2. Exactness and masked classes are those of `knowledge_distillation`.

  Args:
    student_logits: (batch, classes).
    teacher_logits: (batch, classes).
    temperature: T > 0; the paper names its inverse, gamma.

  Returns:
    The loss, float32 (batch,).
  """
  student, teacher = subtract_largest(student_logits), jax.lax.stop_gradient(subtract_largest(teacher_logits))
  softened = teacher / temperature
  both_mask = jnp.isneginf(student) & jnp.isneginf(softened)
  difference = jnp.where(both_mask, 0, jax.lax.stop_gradient(student) - softened)
  divergence, _ = divergence_of_logits(student, softened, difference)
  log_power_sum = jax.nn.logsumexp(softened, axis=-1) - jax.nn.logsumexp(teacher, axis=-1) / temperature
  return jnp.exp(log_power_sum) * divergence
