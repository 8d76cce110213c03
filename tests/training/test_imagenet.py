"""Images of any size from training to evaluation, and the recipe of ImageNet as far as a test can take it."""

import jax
import jax.numpy as jnp
import pytest

from moonshine_jax.configs import imagenet
from moonshine_jax.data import feeds
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import Preempted
from moonshine_jax.models.factory import create_network
from moonshine_jax.runtime import signals
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.training import evaluation, loop, optimizer
from moonshine_jax.training import step as step_lib
from moonshine_jax.workdir import metrics
from tests.conftest import small_config
from tests.helpers import run_processes
from tests.helpers.user import SMALLEST


@pytest.mark.usefixtures('small_runs')
def test_a_run_that_is_stopped_inside_an_epoch_goes_on_with_the_same_crops(varied_images, tmp_path, monkeypatch):
  """Four steps in two epochs, stopped after the third."""
  config = small_config(varied_images)
  config.model.network = SMALLEST
  config.data.update(name='varied_images', feed='stream', image_size=8, pad=0, flip=True)
  ((whole, record),) = loop.train_and_evaluate(config, tmp_path / 'whole').items()

  class Signals(signals.Signals):
    asked = 0

    @property
    def received(self):
      self.asked += 1
      return 'SIGTERM' if self.asked > 4 else ''  # before each step, and after the first epoch

    @received.setter
    def received(self, value):
      pass

  monkeypatch.setattr(signals, 'Signals', Signals)
  with pytest.raises(Preempted, match='^SIGTERM after step 3 of 4 in '):
    loop.train_and_evaluate(config, tmp_path / 'stopped')
  monkeypatch.undo()
  loop.train_and_evaluate(config, tmp_path / 'stopped')
  run_processes.assert_same(tmp_path / 'stopped', whole)

  result = evaluation.evaluate_workdir(whole)
  assert result['test_error'] == record['test_error'] == metrics.read(whole)[-1]['test_error']
  assert result['examples'] == 13
  wrong = result['test_error'] * 13 / 100
  assert abs(wrong - round(wrong)) < 1e-9  # of 13 examples, not of 16 places in the batch


def test_the_recipe_is_that_of_the_resnets():
  config = imagenet.get_config()
  assert (config.model.network, config.model.depth, config.batch_size, config.epochs) == ('resnet', 18, 256, 90)
  rate = optimizer.create_learning_rate_fn(config, steps_per_epoch=10)
  rates = {29: 0.1, 30: 0.01, 59: 0.01, 60: 1e-3, 79: 1e-3, 80: 1e-4}
  assert {epoch: round(float(rate(10 * epoch)), 7) for epoch in rates} == rates


def test_a_step_of_a_student_beside_its_teacher_has_all_terms():
  """Of ResNet-18 G(N/8) and ResNet-18, as shapes: its compilation takes a minute."""
  config = imagenet.get_config()
  config.batch_size = 4
  config.model.block, config.distill.teacher = 'G(N/8)', 'runs/teacher'
  facts = Facts((64, 64, 3), 1000, (127.5,) * 3, (127.5,) * 3)
  student, teacher = (create_network(config.model, facts) for _ in range(2))
  tx = optimizer.create_optimizer(config, steps_per_epoch=10)
  state = jax.eval_shape(
    lambda: step_lib.create_train_state(student, (64, 64, 3), tx, *jax.random.split(jax.random.key(0)))
  )
  batch = {'image': jax.ShapeDtypeStruct((4, 64, 64, 3), jnp.uint8), 'label': jax.ShapeDtypeStruct((4,), jnp.int32)}
  train_step = step_lib.make_train_step(
    [config], [student], teacher, [tx], feeds.StreamFeed.gather, Replicas(jax.devices()[:1])
  )
  (after,), (terms,) = jax.eval_shape(train_step, (state,), state.variables, {}, batch)
  assert {'ce', 'kd', 'at'} < terms.keys()
  assert jax.tree.structure(after) == jax.tree.structure(state)
