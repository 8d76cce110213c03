"""Recipes beside the paper's: the same on any number of devices, going on where they were, with an average beside."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moonshine_jax.config import create_config
from moonshine_jax.data import augment
from moonshine_jax.report import runs as runs_lib
from moonshine_jax.training import evaluation, loop, progress
from moonshine_jax.training import step as step_lib
from moonshine_jax.workdir.trained import Trained
from tests.helpers import run_processes
from tests.helpers.user import SMALLEST


@pytest.mark.skipif(len(jax.devices()) < 8, reason='needs 8 devices')
def test_eight_devices_draw_what_one_draws():
  rng = np.random.default_rng(0)
  images, labels = rng.integers(0, 256, (16, 6, 6, 2), np.uint8), np.arange(16, dtype=np.int32)
  config = create_config({'data.pad': 1, 'data.cutout': 3, 'data.mixup': 1.0, 'data.cutmix': 1.0})
  draw = functools.partial(augment.augment_batch, config.data, 16, fill=(100.0, 120.0))
  alone = jax.jit(functools.partial(draw, axis_name=None))
  together = jax.pmap(functools.partial(draw, axis_name='batch'), axis_name='batch', in_axes=(None, 0, 0))
  shares = [x.reshape(8, 2, *x.shape[1:]) for x in (images, labels)]
  for seed in range(3):
    one, one_labels = alone(jax.random.key(seed), images, labels)
    eight, eight_labels = together(jax.random.key(seed), *shares)
    np.testing.assert_allclose(eight.reshape(one.shape), one, rtol=1e-6)
    np.testing.assert_array_equal(eight_labels.partner.ravel(), one_labels.partner)
    np.testing.assert_array_equal(eight_labels.share, np.full(8, one_labels.share))
    assert not np.array_equal(one_labels.partner, labels) and one_labels.own.tolist() == labels.tolist()


def test_an_average_of_the_weights_written_out():
  tx = optax.sgd(0.5)
  params = {'w': jnp.array([1.0, 2.0])}
  state = step_lib.TrainState(jnp.int32(0), params, {}, tx.init(params), np.zeros(2, np.uint32)).with_ema()
  average = np.array([1.0, 2.0])
  for step in range(1, 6):
    state = state.updated(tx, {'w': jnp.array([1.0, -1.0])}, {}, ema_decay=0.4)
    decay = min(0.4, (1 + step) / (10 + step))
    average = decay * average + (1 - decay) * np.asarray(state.params['w'])
    np.testing.assert_allclose(state.ema['params']['w'], average, rtol=1e-6)


def test_an_average_of_narrow_weights_is_of_float32():
  """In bfloat16 a thousandth of the way would be lost."""
  params = {'w': jnp.ones(3, jnp.bfloat16)}
  tx = optax.sgd(1.0)
  state = step_lib.TrainState(jnp.int32(10_000), params, {}, tx.init(params), np.zeros(2, np.uint32)).with_ema()
  after = state.updated(tx, {'w': jnp.full(3, 0.5, jnp.bfloat16)}, {}, ema_decay=0.999)
  assert after.params['w'].dtype == jnp.bfloat16 and after.ema['params']['w'].dtype == jnp.float32
  np.testing.assert_allclose(after.ema['params']['w'], 1 - 0.001 * 0.5, rtol=1e-6)


@pytest.mark.usefixtures('small_runs')
def test_a_run_by_another_recipe(config, tmp_path, monkeypatch):
  config.model.network = SMALLEST
  config.update_from_flattened_dict(
    {
      'data.cutout': 2,
      'data.mixup': 0.5,
      'data.cutmix': 1.0,
      'data.label_smoothing': 0.1,
      'optimizer.schedule': 'cosine',
      'optimizer.warmup_epochs': 1,
      'optimizer.nesterov': True,
      'optimizer.decay_bn_and_biases': False,
      'optimizer.ema': 0.9,
    }
  )
  (record,) = loop.train_and_evaluate(config, tmp_path / 'whole').values()
  average = Trained.open(tmp_path / 'whole' / 'ema')
  assert average.test_error == record['ema_test_error'] and 'test_error' in record
  result = evaluation.evaluate_workdir(tmp_path / 'whole' / 'ema')
  assert result['test_error'] == record['ema_test_error']
  np.testing.assert_allclose(result['test_loss'], record['ema_test_loss'], rtol=1e-5)
  trained = Trained.open(tmp_path / 'whole').variables
  assert jax.tree.structure(trained) == jax.tree.structure(average.variables)
  assert not np.array_equal(jax.tree.leaves(trained)[0], jax.tree.leaves(average.variables)[0])

  def stop(self, record, student):
    if record['epoch'] == 2:
      raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(progress.ProgressBar, 'epoch', stop)
    with pytest.raises(KeyboardInterrupt):
      loop.train_and_evaluate(config, tmp_path / 'stopped')
  loop.train_and_evaluate(config, tmp_path / 'stopped')
  run_processes.assert_same(tmp_path / 'stopped', tmp_path / 'whole')
  for ours, expected in zip(
    jax.tree.leaves(Trained.open(tmp_path / 'stopped' / 'ema').variables),
    jax.tree.leaves(average.variables),
    strict=True,
  ):
    np.testing.assert_array_equal(ours, expected)
  assert [run.name for run in runs_lib.collect_runs(tmp_path)] == ['stopped', 'whole']  # an average is no run
