"""The terms of the loss: what each config weighs, and which form it takes."""

import jax.numpy as jnp
import numpy as np
import pytest

from moonshine_jax import losses
from moonshine_jax.config import create_config
from moonshine_jax.data.augment import MixedLabels
from moonshine_jax.training import terms

STUDENT, TEACHER = np.random.default_rng(0).normal(size=(2, 4, 5)).astype(np.float32)
ACTIVATIONS = np.random.default_rng(1).normal(size=(2, 4, 3, 3, 6)).astype(np.float32)
LABELS = jnp.array([0, 1, 2, 4])


@pytest.mark.parametrize(
  ('distill', 'expected'),
  [
    ({'alpha': 0.9, 'beta': 3.0}, (1 - 0.9, 0.9, 3.0)),
    ({'alpha': 9.0, 'beta': 0.0, 'ce_weight': 0.1}, (0.1, 9.0, 0.0)),
    ({'alpha': 1.0, 'beta': 0.0, 'ce_weight': 1.0}, (1.0, 1.0, 0.0)),
    ({'alpha': 0.0, 'beta': 0.0, 'ce_weight': 0.5}, (1.0, 0.0, 0.0)),  # nothing but cross entropy
  ],
)
def test_weights(distill, expected):
  fields = {f'distill.{name}': value for name, value in distill.items()}
  assert terms.weights(create_config(fields).distill) == expected


def test_against_mixed_labels_a_loss_is_that_against_the_mixed_target():
  labels = MixedLabels(LABELS, LABELS[::-1], jnp.float32(0.3))
  target = 0.3 * np.eye(5)[np.array(LABELS)] + 0.7 * np.eye(5)[np.array(LABELS[::-1])]
  log_q = STUDENT - np.log(np.exp(STUDENT).sum(-1, keepdims=True))
  loss = terms.of_labels(lambda y: losses.cross_entropy(STUDENT, y), labels)
  np.testing.assert_allclose(loss, -(target * log_q).sum(-1), rtol=1e-5)
  assert terms.are_wrong(np.eye(5)[np.array(LABELS[::-1])], labels).tolist() == [False] * 4  # the larger share
  assert terms.of_labels(lambda y: y, LABELS) is LABELS


def test_a_weight_that_is_warmed_up_rises_by_the_epoch():
  weights = [float(terms.warm_up(6.0, 3, jnp.int32(step), steps_per_epoch=2)) for step in range(8)]
  np.testing.assert_allclose(weights, [2, 2, 4, 4, 6, 6, 6, 6])
  assert terms.warm_up(6.0, 0, jnp.int32(0), 2) == 6.0


@pytest.mark.parametrize(
  ('distill', 'loss'),
  [
    ({'kd_form': 'hinton'}, lambda s, t: losses.knowledge_distillation(s, t, 2.0, 'hinton')),
    (
      {'kd_form': 'dkd', 'dkd_target': 2.0, 'dkd_others': 3.0},
      lambda s, t: losses.decoupled_distillation(s, t, LABELS, 2.0, 2.0, 3.0),
    ),
    (
      {'kd_form': 'dist', 'dist_inter': 3.0, 'dist_intra': 4.0},
      lambda s, t: losses.correlation_distillation(s, t, 2.0, 3.0, 4.0),
    ),
    ({'kd_form': 'wttm'}, lambda s, t: losses.transformed_teacher_matching(s, t, 2.0)),
  ],
)
def test_each_form_of_kd_alone_and_of_standardised_logits(distill, loss):
  config = create_config({'distill.temperature': 2.0} | {f'distill.{name}': value for name, value in distill.items()})
  term = terms.kd_term(config.distill, None)
  np.testing.assert_array_equal(term(STUDENT, TEACHER, LABELS), loss(STUDENT, TEACHER))
  config.distill.standardise = True
  term = terms.kd_term(config.distill, None)
  np.testing.assert_array_equal(
    term(STUDENT, TEACHER, LABELS), loss(losses.standardise(STUDENT), losses.standardise(TEACHER))
  )


@pytest.mark.parametrize(
  ('form', 'loss'),
  [
    ('equation', lambda s, t: losses.attention_transfer(s, t, 'equation')),
    ('nmse', losses.normalised_squared_error),
    ('similarity', losses.similarity_preservation),
  ],
)
def test_each_form_of_at(form, loss):
  term = terms.at_term(create_config({'distill.at_form': form}).distill, None)
  student, teacher = ((activation, activation[:, :2]) for activation in ACTIVATIONS)
  np.testing.assert_array_equal(term(student, teacher, LABELS), loss(student, teacher))
