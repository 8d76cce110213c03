"""The step's loss against its parts, its gradient against finite differences, eight devices against one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moonshine_jax import losses
from moonshine_jax.configs import digits
from moonshine_jax.data import augment, feeds
from moonshine_jax.data.splits import Facts, Split
from moonshine_jax.models.factory import create_network
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.training import optimizer
from moonshine_jax.training import step as step_lib
from tests.helpers.user import SMALLEST

SHAPE = (8, 8, 3)
BATCH = 128
FACTS = Facts(SHAPE, 10, mean=(120.0, 128.0, 130.0), std=(60.0, 70.0, 80.0))
SPLIT = Split(
  np.random.default_rng(0).integers(0, 256, (300, *SHAPE), np.uint8),  # two steps an epoch, and a remainder
  np.random.default_rng(1).integers(0, 10, 300).astype(np.int32),
)


pytestmark = pytest.mark.usefixtures('smooth')


def make_config(**distill):
  config = digits.get_config()
  config.batch_size = BATCH
  config.model.depth = 10
  config.data.pad = 2
  config.data.flip = True
  config.optimizer.learning_rate = 0.01  # small beside beta: a larger one blows rounding up from step to step
  config.distill.update(distill)
  return config


def make_network(config, block='S', axis_name=None):
  config.model.block = block
  return create_network(config.model, FACTS, axis_name)


def make_teacher(config):
  network = make_network(config)
  return network, network.init(jax.random.key(5), SHAPE)


def train(config, devices, feed_name, block='S,G(N/8),S', platform='cpu'):
  """The state and the metrics of each step of an epoch of a student with a teacher, on so many devices.

  The loop is that of a platform, whatever the devices are.
  """
  replicas = Replicas(jax.devices()[:devices])
  teacher, teacher_variables = make_teacher(config)
  student = make_network(config, block, replicas.axis_name)
  tx = optimizer.create_optimizer(config, steps_per_epoch=1)
  states = (step_lib.create_train_state(student, SHAPE, tx, jax.random.key(0), jax.random.key(1)),)
  feed = feeds.FEEDS[feed_name](SPLIT, replicas)
  loop = replicas.compile(
    step_lib.make_train_loop(
      step_lib.make_train_step([config], [student], teacher, [tx], feed.gather, replicas), platform
    ),
    donate_argnums=(0,),
  )
  states, teacher_variables = replicas.replicate((states, teacher_variables))
  metrics = []
  # Both steps are in one dispatch from the resident feed, and in a dispatch each from the stream.
  for batches in feed.epoch(2, 0, BATCH, steps_per_dispatch=2):
    states, (stacked,) = loop(states, teacher_variables, feed.data, batches)
    stacked = replicas.fetch(stacked)
    metrics += [{name: values[i] for name, values in stacked.items()} for i in range(len(stacked['loss']))]
  return replicas.fetch(states[0]), metrics


@pytest.fixture(scope='module')
def one_device():
  return train(make_config(), 1, 'resident')


@pytest.mark.skipif(len(jax.devices()) < 8, reason='needs 8 devices')
def test_eight_devices_with_16_images_compute_what_one_computes_with_128(one_device):
  state, metrics = train(make_config(), 8, 'resident')
  for ours, expected in zip(metrics, one_device[1], strict=True):
    assert ours.keys() == expected.keys() == {'loss', 'ce', 'kd', 'at', 'error', 'gradient_norm'}
    for name in ours:
      np.testing.assert_allclose(ours[name], expected[name], rtol=5e-5, err_msg=name)
  for name in ('params', 'batch_stats', 'opt_state'):
    for (path, ours), expected in zip(
      jax.tree.leaves_with_path(getattr(state, name)), jax.tree.leaves(getattr(one_device[0], name)), strict=True
    ):
      np.testing.assert_allclose(
        ours, expected, rtol=0, atol=1e-5 * max(np.abs(expected).max(), 1.0), err_msg=name + jax.tree_util.keystr(path)
      )


def test_both_feeds_train_the_same_in_one_dispatch_or_in_many(optimised):
  config = make_config()
  config.model.network = SMALLEST
  one, many = (train(config, 1, feed, 'S') for feed in ('resident', 'stream'))
  jax.tree.map(np.testing.assert_array_equal, many, one)


def test_the_loop_of_a_gpu_packs_the_parameters_and_trains_the_same(one_device):
  state, metrics = train(make_config(), 1, 'resident', platform='gpu')
  assert jax.tree.structure(state) == jax.tree.structure(one_device[0])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), (state, metrics), one_device)


def test_the_loss_is_the_sum_of_its_parts_on_augmented_images(one_device):
  """The first step's terms, worked out from the networks' outputs outside of the step."""
  config = make_config()
  teacher, teacher_variables = make_teacher(config)
  student = make_network(config, 'S,G(N/8),S')
  tx = optimizer.create_optimizer(config, steps_per_epoch=1)
  state = step_lib.create_train_state(student, SHAPE, tx, jax.random.key(0), jax.random.key(1))
  index = feeds.epoch_order(2, 0, len(SPLIT), BATCH)[0]
  images, labels = augmented(config, SPLIT.images[index]), SPLIT.labels[index]
  (logits, activations), _ = student(state.variables, images, train=True, mutable=['batch_stats'])
  teacher_logits, teacher_activations = teacher(teacher_variables, images, train=False)
  ce = losses.cross_entropy(logits, labels).mean()
  kd = losses.knowledge_distillation(logits, teacher_logits, 4.0).mean()
  at = losses.attention_transfer(activations, teacher_activations).mean()
  expected = {
    'ce': ce,
    'kd': kd,
    'at': at,
    'loss': 0.1 * ce + 0.9 * kd + 62.5 * at,
    'error': 100 * (logits.argmax(-1) != labels).mean(),
  }
  for name, value in expected.items():
    np.testing.assert_allclose(one_device[1][0][name], value, rtol=1e-4, err_msg=name)


def augmented(config, images):
  """The first step's augmentation, by NumPy."""
  choices = augment.draw_choices(jax.random.fold_in(jax.random.key(1), 0), BATCH, config.data.pad, config.data.flip)
  pad = config.data.pad
  result = []
  for image, (row, column), flip in zip(images, choices['offset'], choices['flip'], strict=True):
    crop = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))[row : row + 8, column : column + 8]
    result.append(crop[:, ::-1] if flip else crop)
  return np.stack(result)


@pytest.mark.parametrize(
  ('distill', 'terms'),
  [
    ({'alpha': 0.0, 'beta': 0.0}, {'ce'}),
    ({'alpha': 0.5, 'beta': 0.0}, {'ce', 'kd'}),
    ({'alpha': 0.0, 'beta': 10.0}, {'ce', 'at'}),
  ],
)
def test_a_term_of_no_weight_is_not_computed(distill, terms):
  config = make_config(**distill)
  replicas = Replicas(jax.devices()[:1])
  network, variables = make_teacher(config)
  tx = optimizer.create_optimizer(config, steps_per_epoch=1)
  step = step_lib.make_train_step([config], [network], network, [tx], feeds.StreamFeed.gather, replicas)
  state = jax.eval_shape(
    lambda key: step_lib.TrainState(
      jnp.int32(0),
      variables['params'],
      variables['batch_stats'],
      tx.init(variables['params']),
      jax.random.key_data(key),
    ),
    jax.random.key(0),
  )
  batch = {
    'image': jax.ShapeDtypeStruct((BATCH, *SHAPE), jnp.uint8),
    'label': jax.ShapeDtypeStruct((BATCH,), jnp.int32),
  }
  _, (metrics,) = jax.eval_shape(step, (state,), variables, {}, batch)
  assert metrics.keys() == terms | {'loss', 'error', 'gradient_norm'}


def test_the_step_descends_the_gradient_of_the_loss():
  """Without momentum and decay the first update is -learning_rate times a gradient that finite differences confirm."""
  config = make_config(alpha=0.5, beta=10.0)
  config.batch_size = 16
  config.data.pad, config.data.flip = 0, False
  config.optimizer.momentum, config.optimizer.weight_decay = 0.0, 0.0
  network, teacher_variables = make_teacher(config)
  student = make_network(config, 'S,BG(2,M/8),S')
  tx = optimizer.create_optimizer(config, steps_per_epoch=1)
  state = step_lib.create_train_state(student, SHAPE, tx, jax.random.key(0), jax.random.key(1))
  step = jax.jit(
    step_lib.make_train_step([config], [student], network, [tx], feeds.StreamFeed.gather, Replicas(jax.devices()[:1]))
  )
  batch = {'image': SPLIT.images[:16], 'label': SPLIT.labels[:16]}

  def loss(params):
    return float(step((state.replace(params=params),), teacher_variables, {}, batch)[1][0]['loss'])

  (after,), (metrics,) = step((state,), teacher_variables, {}, batch)
  gradient = jax.tree.map(lambda before, after: (before - after) / 0.01, state.params, after.params)
  squared_norm = sum(float((leaf**2).sum()) for leaf in jax.tree.leaves(gradient))
  size = 3e-3 / np.sqrt(squared_norm)
  ahead, behind = (
    loss(jax.tree.map(lambda p, g, sign=sign: p + sign * size * g, state.params, gradient)) for sign in (1, -1)
  )
  np.testing.assert_allclose((ahead - behind) / (2 * size), squared_norm, rtol=0.005)
  assert metrics['loss'] == loss(state.params)
  np.testing.assert_allclose(metrics['gradient_norm'], np.sqrt(squared_norm), rtol=1e-4)
  assert after.step == 1


def test_evaluation_counts_under_the_mask_alone():
  config = make_config()
  network, variables = make_teacher(config)
  replicas = Replicas(jax.devices()[:1])
  feed = feeds.ResidentFeed(SPLIT, replicas)
  eval_step = jax.jit(step_lib.make_eval_step(network, feed.gather, replicas))
  batch = {'index': np.array([0, 1, 2, 2, 2]), 'mask': np.array([1, 1, 1, 0, 0], np.float32)}
  logits, _ = network(variables, SPLIT.images[:3], train=False)
  once = eval_step(variables, feed.data, batch, step_lib.NO_EXAMPLES)
  sums = eval_step(variables, feed.data, batch, once)
  assert (once['examples'], sums['examples']) == (3, 6)
  assert sums['wrong'] == 2 * (np.argmax(logits, -1) != SPLIT.labels[:3]).sum()
  np.testing.assert_allclose(sums['loss'], 2 * losses.cross_entropy(logits, SPLIT.labels[:3]).sum(), rtol=1e-5)
