"""The terms of a student's loss as its config has them: weights, forms, and functions of the user's own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from moonshine_jax import losses
from moonshine_jax.data.augment import MixedLabels
from moonshine_jax.runtime import user_functions

Term = Callable[[Any, Any, jax.Array], jax.Array]  # (student's, teacher's, labels) -> the loss of each example


def weights(distill: ml_collections.ConfigDict) -> tuple[float, float, float]:
  """Returns the weights of cross entropy, KD and AT of `config.distill`; cross entropy alone has 1."""
  if not distill.alpha and not distill.beta:
    return 1.0, 0.0, 0.0
  return 1 - distill.alpha if distill.ce_weight == -1 else distill.ce_weight, distill.alpha, distill.beta


def of_labels(loss: Callable[[jax.Array], jax.Array], labels: jax.Array | MixedLabels) -> jax.Array:
  """Returns a loss of labels; of mixed ones the mixture of the losses of both, by their shares."""
  if not isinstance(labels, MixedLabels):
    return loss(labels)
  return labels.share * loss(labels.own) + (1 - labels.share) * loss(labels.partner)


def are_wrong(logits: jax.Array, labels: jax.Array | MixedLabels) -> jax.Array:
  """Returns whether each prediction is wrong; of mixed images, against the label of the larger share."""
  if isinstance(labels, MixedLabels):
    labels = jnp.where(labels.share >= 0.5, labels.own, labels.partner)
  return logits.argmax(-1) != labels


def warm_up(weight: float, epochs: int, step: jax.Array, steps_per_epoch: int) -> float | jax.Array:
  """Returns the weight of a term in a step: a share of the weight that rises by the epoch, to the whole in the last.

  As in the released code of DKD: with 20 epochs it is 1/20 in the first and 1 from the 20th on.
  """
  if not epochs:
    return weight
  return weight * jnp.minimum((step // steps_per_epoch + 1) / epochs, 1)


def kd_term(distill: ml_collections.ConfigDict, axis_name: str | None) -> Term:
  """Returns the KD of a config, of logits (batch, classes).

  Args:
    distill: `config.distill`.
    axis_name: of the replicas that share the batch.
  """
  form, temperature = distill.kd_form, distill.temperature
  forms: dict[str, Term] = {
    'dkd': lambda student, teacher, labels: losses.decoupled_distillation(
      student, teacher, labels, temperature, distill.dkd_target, distill.dkd_others
    ),
    'dist': lambda student, teacher, _: losses.correlation_distillation(
      student, teacher, temperature, distill.dist_inter, distill.dist_intra, axis_name
    ),
    'wttm': lambda student, teacher, _: losses.transformed_teacher_matching(student, teacher, temperature),
  }
  if user_functions.is_name(form):
    term: Term = user_functions.load(form)
  else:
    term = forms.get(
      form, lambda student, teacher, _: losses.knowledge_distillation(student, teacher, temperature, form)
    )
  if not distill.standardise:
    return term
  return lambda student, teacher, labels: term(losses.standardise(student), losses.standardise(teacher), labels)


def at_term(distill: ml_collections.ConfigDict, axis_name: str | None) -> Term:
  """Returns the AT of a config, of a tuple of activations (batch, height, width, channels); see `kd_term`."""
  form = distill.at_form
  if user_functions.is_name(form):
    return user_functions.load(form)
  whole = {'nmse': losses.normalised_squared_error, 'similarity': losses.similarity_preservation}
  if form in whole:
    return lambda student, teacher, _: whole[form](student, teacher, axis_name)
  return lambda student, teacher, _: losses.attention_transfer(student, teacher, form)
