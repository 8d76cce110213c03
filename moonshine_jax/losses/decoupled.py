"""Decoupled knowledge distillation: the label's class or not, and which of the others, each with a weight."""

import jax
import jax.numpy as jnp

from moonshine_jax.losses.divergence import divergence_of_logits, divide_by_temperature, times


def decoupled_distillation(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  labels: jax.Array,
  temperature: float,
  target_weight: float = 1.0,
  others_weight: float = 6.0,
) -> jax.Array:
  """Computes decoupled knowledge distillation (DKD: Zhao et al., CVPR 2022).

  With p and q the softmax of the teacher's and the student's logits over T, it is T^2 (target_weight TCKD +
  others_weight NCKD). TCKD is the KL divergence of (p of the label, 1 - p of the label), NCKD that of p among the other
  classes. Hinton's form is T^2 (TCKD + (1 - p of the label) NCKD). Exactness and masked classes are those of
  `knowledge_distillation`; where the teacher leaves no other class, NCKD is 0.

  Args:
    student_logits: (batch, classes).
    teacher_logits: (batch, classes).
    labels: integers (batch,).
    temperature: T > 0.
    target_weight: the paper's alpha.
    others_weight: the paper's beta, 6 for pairs of Wide ResNets.

  Returns:
    The loss, float32 (batch,).
  """
  student, teacher, difference = divide_by_temperature(student_logits, teacher_logits, temperature)
  is_label = jax.nn.one_hot(labels, student.shape[-1], dtype=bool)
  student_others, teacher_others = (jnp.where(is_label, -jnp.inf, logits) for logits in (student, teacher))

  # Of no class at all the logits below are 0: there nothing diverges, and nothing has a gradient.
  no_others = jnp.isneginf(teacher_others).all(axis=-1)
  student_has_none = jnp.isneginf(student_others).all(axis=-1)
  others_difference = jnp.where(is_label | no_others[:, None], 0, difference)
  of_others, log_p = divergence_of_logits(
    jnp.where(no_others[:, None], 0, student_others),
    jnp.where(no_others[:, None], 0, teacher_others),
    others_difference,
  )

  # The other classes together have the logit log sum exp.
  student_rest = jnp.where(
    student_has_none, -jnp.inf, jax.nn.logsumexp(jnp.where(student_has_none[:, None], 0, student_others), axis=-1)
  )
  teacher_rest = jax.nn.logsumexp(teacher_others, axis=-1)
  # Of nearly equal networks its difference is exact as E[difference] + KL, and of different ones as it is.
  rest_difference = jnp.where(
    (of_others < 1) & ~no_others,
    times(jnp.exp(log_p), others_difference).sum(axis=-1) + of_others,
    jax.lax.stop_gradient(student_rest) - teacher_rest,
  )
  rest_difference = jnp.where(no_others & student_has_none, 0, rest_difference)

  def of_label(values: jax.Array, rest: jax.Array) -> jax.Array:
    return jnp.stack([jnp.where(is_label, values, 0).sum(axis=-1), rest], axis=-1)

  of_target, _ = divergence_of_logits(
    of_label(student, student_rest), of_label(teacher, teacher_rest), of_label(difference, rest_difference)
  )
  return temperature**2 * (target_weight * of_target + others_weight * of_others)
