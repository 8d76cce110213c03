"""What is not a number anywhere in a network reaches the loss: evaluation and training stop with a line."""

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from flax import traverse_util

from moonshine_jax.configs import digits
from moonshine_jax.data.feeds import ResidentFeed
from moonshine_jax.data.splits import Split
from moonshine_jax.errors import UserError
from moonshine_jax.models.network import Network
from moonshine_jax.models.resnet import ResNet
from moonshine_jax.models.wide_resnet import WideResNet
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.training import evaluation
from moonshine_jax.training import step as step_lib


class Pooled(nn.Module):
  """A convolution, BN, ReLU, and a pool over all pixels, as networks end."""

  pool: object

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.BatchNorm(use_running_average=not train, name='bn')(nn.Conv(32, (3, 3), name='conv1')(images))
    return nn.Dense(10, name='fc')(self.pool(nn.relu(x)).reshape(len(x), -1)), ()


IMAGES = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), np.uint8)
LABELS = np.arange(16, dtype=np.int32) % 10
POOLS = {
  'average': lambda x: nn.avg_pool(x, (8, 8)),
  'maximum': lambda x: nn.max_pool(x, (8, 8)),
  'minimum': lambda x: x.min((1, 2)),
  'sum': lambda x: x.sum((1, 2)),
  'softmax': lambda x: nn.softmax(x.mean((1, 2))),
}
NETWORKS = {
  'WRN': lambda: (WideResNet(10, 1, ('S', 'S', 'S'), 10), 'conv1', 'conv4_block1/bn2'),
  'ResNet': lambda: (ResNet(18, 'S', 10), 'conv1', 'bn1'),
  **{f'user, {name}': lambda pool=pool: (Pooled(pool), 'conv1', 'bn') for name, pool in POOLS.items()},
}


def changed(variables, path, value):
  """The variables with one array full of a value."""
  flat = traverse_util.flatten_dict(variables, sep='/')
  return traverse_util.unflatten_dict({**flat, path: np.full_like(flat[path], value)}, sep='/')


@pytest.mark.parametrize('name', NETWORKS)
def test_an_evaluation_stops(name):
  model, convolution, norm = NETWORKS[name]()
  network, replicas = Network(model, (120.0,) * 3, (60.0,) * 3), Replicas(jax.devices()[:1])
  feed = ResidentFeed(Split(IMAGES, LABELS), replicas)
  eval_step = replicas.compile(step_lib.make_eval_step(network, feed.gather, replicas))
  variables = jax.device_get(network.init(jax.random.key(0), (8, 8, 3)))

  def evaluate(path, value):
    return evaluation.evaluate_feed(
      eval_step, changed(variables, path, value), feed, 16, 16, replicas, 'runs/a, step 7'
    )

  assert np.isfinite(evaluate(f'batch_stats/{norm}/mean', 0.1)['test_loss'])
  for path, value in (
    (f'params/{convolution}/kernel', np.nan),
    (f'batch_stats/{norm}/var', -1.0),
    (f'batch_stats/{norm}/mean', np.nan),
  ):
    with pytest.raises(
      UserError, match='^runs/a, step 7: not a number on the test images: test loss nan: expected fin'
    ):
      evaluate(path, value)


@pytest.mark.parametrize('name', ['WRN', 'user, maximum'])
def test_the_loss_of_a_train_step_shows_it(name):
  """Of a student, and of its teacher, whose logits are targets."""
  config = digits.get_config()
  config.batch_size, config.data.pad = 16, 0
  config.distill.alpha, config.distill.beta = 0.5, 0.0
  model, convolution, norm = NETWORKS[name]()
  network, replicas, tx = Network(model, (120.0,) * 3, (60.0,) * 3), Replicas(jax.devices()[:1]), optax.sgd(0.1)
  state = step_lib.create_train_state(network, (8, 8, 3), tx, jax.random.key(0), jax.random.key(1))
  feed = ResidentFeed(Split(IMAGES, LABELS), replicas)
  step = replicas.compile(step_lib.make_train_step([config], [network], network, [tx], feed.gather, replicas))

  def losses(state, teacher):
    _, (metrics,) = step((state,), teacher, feed.data, {'index': np.arange(16)})
    return np.array([metrics['ce'], metrics['kd'], metrics['loss']])

  variables = jax.device_get(state.variables)
  kernel = f'params/{convolution}/kernel'
  assert np.isfinite(losses(state, variables)).all()
  assert np.isnan(losses(state.replace(params=changed(variables, kernel, np.nan)['params']), variables)).all()
  for path, value in ((kernel, np.nan), (f'batch_stats/{norm}/var', -1.0)):
    assert np.isnan(losses(state, changed(variables, path, value))).tolist() == [False, True, True]
