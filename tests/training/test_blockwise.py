"""Blocks that learn alone: the update against NumPy, places that do not touch, devices, and whole runs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moonshine_jax.configs import digits
from moonshine_jax.data import feeds
from moonshine_jax.data.splits import Facts, Split
from moonshine_jax.errors import UserError
from moonshine_jax.models.factory import create_network
from moonshine_jax.models.surgery import places as places_lib
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.training import blockwise, loop
from moonshine_jax.training import step as step_lib
from moonshine_jax.workdir import metrics
from moonshine_jax.workdir.trained import Trained
from moonshine_jax.workdir.workdir import Workdir
from tests.helpers import run_processes

SHAPE = (8, 8, 3)
BATCH = 16
FACTS = Facts(SHAPE, 10, mean=(120.0, 128.0, 130.0), std=(60.0, 70.0, 80.0))
SPLIT = Split(
  np.random.default_rng(0).integers(0, 256, (BATCH, *SHAPE), np.uint8),
  np.random.default_rng(1).integers(0, 10, BATCH).astype(np.int32),
)


def make_config():
  config = digits.get_config()
  config.batch_size = BATCH
  config.model.depth = 10
  config.data.pad, config.data.flip = 2, True
  config.distill.teacher, config.distill.blockwise = 'runs/teacher', True
  return config


def make_network(config, block, axis_name=None):
  config.model.block = block
  return create_network(config.model, FACTS, axis_name)


def learn(devices):
  """The teacher's variables, the student's state before and after a step, and its metrics, on so many devices."""
  config, replicas = make_config(), Replicas(jax.devices()[:devices])
  teacher = make_network(config, 'S')
  student = make_network(config, 'G(N/8),S,B(2)', replicas.axis_name)
  teacher_variables = teacher.init(jax.random.key(5), SHAPE)
  tx = optax.sgd(0.1)
  state = step_lib.create_train_state(student, SHAPE, tx, jax.random.key(0), jax.random.key(1))
  feed = feeds.StreamFeed(SPLIT, replicas)
  step = blockwise.make_blockwise_step(config, [student], teacher, [tx], feed.gather, replicas, SHAPE)
  batches = feed.batches([{'index': np.arange(BATCH)}])
  compiled = replicas.compile(step)
  (after,), (metrics,) = compiled(
    replicas.replicate((state,)), replicas.replicate(teacher_variables), feed.data, next(iter(batches))
  )
  return teacher_variables, jax.device_get(state), replicas.fetch(after), replicas.fetch(metrics)


@pytest.fixture(scope='module')
def one_device(smooth):
  return learn(1)


def test_a_step_learns_in_the_places_alone(one_device):
  _, before, after, metrics = one_device
  changed = {
    name.split('/')[0]
    for name, same in places_flat(jax.tree.map(np.array_equal, before.params, after.params)).items()
    if not same
  }
  assert changed == {'conv2_block1', 'conv4_block1'} and metrics.keys() == {*changed, 'loss', 'gradient_norm'}
  assert metrics['loss'] == pytest.approx((metrics['conv2_block1'] + metrics['conv4_block1']) / 2)
  np.testing.assert_array_equal(before.batch_stats['bn']['mean'], after.batch_stats['bn']['mean'])
  assert not np.array_equal(
    before.batch_stats['conv2_block1']['bn1']['mean'], after.batch_stats['conv2_block1']['bn1']['mean']
  )


def places_flat(tree):
  return {'/'.join(key.key for key in keys): leaf for keys, leaf in jax.tree.leaves_with_path(tree)}


def test_four_devices_learn_as_one(one_device, smooth):
  _, _, expected, expected_metrics = one_device
  _, _, after, metrics = learn(4)
  for name, leaf in places_flat(expected.params).items():
    np.testing.assert_allclose(places_flat(after.params)[name], leaf, rtol=1e-4, atol=1e-6, err_msg=name)
  for name, value in expected_metrics.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)


def test_the_error_is_that_of_the_block_alone_on_what_its_teacher_is_given(one_device):
  """The errors of the step before it learns, from the modules called one by one."""
  teacher_variables, before, _, metrics = one_device
  config = make_config()
  teacher, student = make_network(config, 'S'), make_network(config, 'G(N/8),S,B(2)')
  places = places_lib.find_places(student.model, teacher.model, SHAPE)
  tapped = places_lib.tap(teacher.model.apply, [place.path for place in places])
  images = augmented(config)
  seen = tapped(teacher_variables, (images.astype(np.float32) - np.array(FACTS.mean)) / np.array(FACTS.std))
  for place in places:
    inputs, outputs = map(np.asarray, seen[place.path])
    learnt = np.asarray(place.run(before.variables, inputs)[0])
    expected = ((learnt - outputs) ** 2).mean(dtype=float) / (outputs**2).mean(dtype=float)
    np.testing.assert_allclose(metrics[place.path], expected, rtol=1e-4)


def augmented(config):
  """The images of the first step."""
  key = jax.random.fold_in(jax.random.key(1), 0)
  choices = step_lib.augment.draw_choices(key, BATCH, config.data.pad, config.data.flip)
  return np.asarray(step_lib.augment.crop_and_flip(jnp.asarray(SPLIT.images), choices, config.data.pad))


def test_a_student_that_is_its_teacher_is_refused():
  config, replicas = make_config(), Replicas(jax.devices()[:1])
  teacher, students = make_network(config, 'S'), [make_network(config, 'B(2)'), make_network(config, 'S')]
  config.distill.students = ('block=B(2)', 'block=S')
  with pytest.raises(UserError, match='^config.model.block=S: these are the blocks of the teacher, none of which'):
    blockwise.make_blockwise_step(config, students, teacher, [optax.sgd(0.1)] * 2, lambda *_: None, replicas, SHAPE)


def trained_config(trained):
  """A student of one epoch, which starts from blocks that learn for two."""
  workdir, _ = trained
  config = Workdir(workdir).config
  config.update_from_flattened_dict(
    {
      'epochs': 1,
      'model.block': 'S-2x2',
      'optimizer.decay_epochs': (),
      'distill.teacher': str(workdir),
      'distill.start': 'blockwise',
      'blockwise.epochs': 2,
      'blockwise.calibration_steps': 3,
    }
  )
  return config


@pytest.fixture(scope='module')
def started(small_runs, trained, tmp_path_factory):
  """A config, and the workdir of its finished run."""
  config = trained_config(trained)
  workdir = tmp_path_factory.mktemp('started')
  loop.train_and_evaluate(config, workdir)
  return config, workdir


def test_a_run_starts_from_the_blocks_that_were_put_together(started):
  _, workdir = started
  (start,) = (workdir / 'start').iterdir()
  (record,) = Workdir(start).records
  assert record['epoch'] == 0 and 0 <= record['test_error'] <= 100
  learnt = metrics.read(workdir / 'blockwise' / start.name)[-1]
  assert learnt['epoch'] == 2 and {'train_conv2_block1', 'train_conv3_block1', 'train_conv4_block1'} < learnt.keys()
  before, after = Workdir(workdir).records
  assert before == {**record, 'best_test_error': record['test_error']} and after['epoch'] == 1
  assert after['best_test_error'] == min(record['test_error'], after['test_error'])
  assert [str(found) for found in Workdir.find(workdir)] == [str(workdir)]


def test_calibration_estimates_the_statistics_alone(started):
  _, workdir = started
  (start,) = (workdir / 'start').iterdir()
  learnt, calibrated = Trained.open(workdir / 'blockwise' / start.name).variables, Trained.open(start).variables
  assert jax.tree.all(jax.tree.map(np.array_equal, learnt['params'], calibrated['params']))
  same = jax.tree.map(np.array_equal, learnt['batch_stats'], calibrated['batch_stats'])
  assert not any(jax.tree.leaves(same))


def test_a_workdir_of_another_run_is_refused_before_blocks_learn(started, monkeypatch):
  config, workdir = started
  config = config.copy_and_resolve_references()
  config.model.block = 'G(2)'
  monkeypatch.setattr(loop, 'prepare', lambda *_: pytest.fail('blocks learn'))
  with pytest.raises(UserError, match='holds a run of another config: config.model.block='):
    loop.train_and_evaluate(config, workdir)


def test_a_run_that_was_stopped_while_blocks_learnt_goes_on_to_the_same_bits(started, tmp_path, monkeypatch):
  config, whole = started

  def stop(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(blockwise, 'calibrate', stop)
  with pytest.raises(KeyboardInterrupt):
    loop.train_and_evaluate(config, tmp_path)
  monkeypatch.undo()
  loop.train_and_evaluate(config, tmp_path)
  run_processes.assert_same(tmp_path, whole)


def test_a_run_from_a_workdir_begins_as_the_network_in_it(started, tmp_path, monkeypatch):
  config, workdir = started
  (start,) = (workdir / 'start').iterdir()
  config = config.copy_and_resolve_references()
  config.distill.start = str(start)

  def stop(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(loop, 'run_epoch', stop)  # the start's record is there, and no checkpoint yet
  with pytest.raises(KeyboardInterrupt):
    loop.train_and_evaluate(config, tmp_path)
  monkeypatch.undo()
  loop.train_and_evaluate(config, tmp_path)
  assert [each['test_error'] for each in Workdir(tmp_path).records] == [
    each['test_error'] for each in Workdir(workdir).records
  ]
  ours, theirs = Trained.open(tmp_path).variables, Trained.open(workdir).variables
  assert jax.tree.all(jax.tree.map(np.array_equal, ours, theirs))


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'distill.start': 'nothing'}, r"^config.distill.start='nothing': "),
    ({'model.block': 'B(2)', 'distill.start': '@'}, '^config.distill.start=.*the variables are not those of the net'),
    ({'distill.teacher': ''}, "^config.distill.teacher='': expected the workdir of the teacher that the blocks"),
  ],
)
def test_a_start_that_cannot_be_is_one_line(started, tmp_path, change, message):
  config, workdir = started
  config = config.copy_and_resolve_references()
  config.update_from_flattened_dict(
    {name: value.replace('@', str(next((workdir / 'start').iterdir()))) for name, value in change.items()}
  )
  with pytest.raises(UserError, match=message):
    loop.train_and_evaluate(config, tmp_path)
