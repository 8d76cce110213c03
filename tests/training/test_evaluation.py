"""Evaluation of a whole split."""

import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moonshine_jax import errors
from moonshine_jax.data.feeds import ResidentFeed
from moonshine_jax.data.splits import Split
from moonshine_jax.models.network import Network
from moonshine_jax.runtime import devices
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.training import evaluation
from moonshine_jax.training import step as step_lib


def test_an_evaluation_is_never_far_ahead(monkeypatch):
  awaited, ahead = [], []
  monkeypatch.setattr(jax, 'block_until_ready', awaited.append)

  def eval_step(variables, data, batch, sums):
    ahead.append(sums['step'] - (awaited[-1]['step'] if awaited else 0))
    return {'step': sums['step'] + 1, 'loss': 3.0, 'wrong': 1, 'probabilities': 1, 'examples': 4}

  monkeypatch.setattr(step_lib, 'NO_EXAMPLES', {'step': 0})
  feed = types.SimpleNamespace(data=None, batches=iter)
  found = evaluation.evaluate_feed(eval_step, {}, feed, 40, 4, Replicas(jax.devices()[:1]), 'network')
  assert len(ahead) == 10 and max(ahead) == devices.IN_FLIGHT - 1
  assert found == {'test_error': 25.0, 'test_loss': 0.75}


class Activated(nn.Module):
  """The first row of an image, through the last activation of a network."""

  activation: object

  @nn.compact
  def __call__(self, images, train):
    return self.activation(images[:, 0, :, 0]), ()


@pytest.mark.parametrize(
  ('activation', 'warns'),
  [
    (nn.softmax, True),
    (nn.sigmoid, True),
    (lambda x: nn.softmax(x.astype(jnp.bfloat16)), True),
    (lambda x: nn.softmax(100 * x), True),  # exactly 0 and 1
    (lambda x: x, False),
    (nn.log_softmax, False),  # logits less a constant, which no loss sees
    (jnp.zeros_like, False),  # a last layer that begins with zeros
    (lambda x: nn.softmax(x) - 0.3, False),
  ],
)
def test_a_network_that_gives_probabilities_is_one_line(activation, warns, capsys):
  errors.warn_once.cache_clear()
  replicas = Replicas(jax.devices()[:1])
  images = np.random.default_rng(0).integers(0, 256, (10, 1, 4, 1), np.uint8)
  feed = ResidentFeed(Split(images, np.arange(10, dtype=np.int32) % 4), replicas)
  eval_step = step_lib.make_eval_step(Network(Activated(activation), (127.5,), (60.0,)), feed.gather, replicas)
  for _ in range(2):
    evaluation.evaluate_feed(eval_step, {}, feed, 10, 6, replicas, 'network')
  warning = 'warning: the network gives probabilities: all its outputs are from 0 to 1, as of a softmax or a sigmoid: '
  said = capsys.readouterr().err
  assert said.startswith(warns * warning) and said.count('\n') == warns
