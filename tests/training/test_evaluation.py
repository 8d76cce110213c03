"""Evaluation of a whole split."""

import types

import jax

from moonshine_jax.runtime import devices
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.training import evaluation
from moonshine_jax.training import step as step_lib


def test_an_evaluation_is_never_far_ahead(monkeypatch):
  awaited, ahead = [], []
  monkeypatch.setattr(jax, 'block_until_ready', awaited.append)

  def eval_step(variables, data, batch, sums):
    ahead.append(sums['step'] - (awaited[-1]['step'] if awaited else 0))
    return {'step': sums['step'] + 1, 'loss': 3.0, 'wrong': 1, 'examples': 4}

  monkeypatch.setattr(step_lib, 'NO_EXAMPLES', {'step': 0})
  feed = types.SimpleNamespace(data=None, batches=iter)
  found = evaluation.evaluate_feed(eval_step, {}, feed, 40, 4, Replicas(jax.devices()[:1]))
  assert len(ahead) == 10 and max(ahead) == devices.IN_FLIGHT - 1
  assert found == {'test_error': 25.0, 'test_loss': 0.75}
