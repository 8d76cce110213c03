"""Networks and data of a user's own through the whole project; what cannot be run is refused before it begins."""

import re
import shutil

import jax
import numpy as np
import pytest

from configs import digits
from moonshine_jax import (
  attention,
  checkpoint,
  datasets,
  evaluate,
  feeds,
  optim,
  parallel,
  report,
  results,
  steps,
  tables,
  train,
)
from moonshine_jax import config as config_lib
from moonshine_jax.errors import UserError
from moonshine_jax.models import create_model

pytestmark = pytest.mark.usefixtures('small_runs')


@pytest.fixture
def config():
  return own_config()


def own_config():
  config = digits.get_config()
  config.batch_size, config.epochs, config.checkpoint_every = 16, 2, 1
  config.model.network = 'tests.own:with_norm'
  config.data.name = 'tests.own:images'
  config.optimizer.decay_epochs = (1,)
  return config


@pytest.fixture(scope='module')
def folder(small_runs, tmp_path_factory):
  """A teacher with BN, and students of it: one with cheap convolutions, and one with dropout and without BN."""
  folder = tmp_path_factory.mktemp('own')
  train.train_and_evaluate(own_config(), folder / 'teacher')
  config = own_config()
  config.distill.teacher = str(folder / 'teacher')
  config.distill.students = ('block=G(N/4) alpha=0', 'network=tests.own:with_dropout beta=0')
  train.train_and_evaluate(config, folder)
  return folder


def test_evaluate_and_report(folder, capsys):
  result = evaluate.evaluate(folder / 'block-G-N-4-alpha-0')
  assert [result[name] for name in ('network', 'block', 'regime', 'examples')] == ['with_norm', 'G(N/4)', 'AT', 15]
  # The stem, stage 1 of 8 to 8 and stage 2 of 8 to 16 channels in groups of 4, their 1x1, and the logits.
  stem, logits = 64 * 9 * 2 * 8, 16 * 3
  cheap = 16 * (9 * 4 * 8 + 8 * 8) + 4 * (9 * 4 * 8 + 8 * 16)
  assert result['multiply_adds'] == stem + cheap + logits
  dropout = evaluate.evaluate(folder / 'network-tests.own-with-dropout-beta-0')
  assert dropout['parameters'] == (9 * 2 * 8 + 8) + (9 * 8 * 8 + 8) + (9 * 8 * 16 + 16) + (16 * 3 + 3)
  assert dropout['multiply_adds'] == stem + 16 * 9 * 8 * 8 + 4 * 9 * 8 * 16 + logits

  found = results.collect(folder)
  table = tables.table(found)
  for name in ('with_norm (teacher) | S ', 'with_norm           | G(N/4)', 'with_dropout        | S '):
    assert name in table
  report.write(folder, found, folder / 'report', None)
  page = (folder / 'report' / 'index.html').read_text()
  assert 'Test error on images' in page and 'with_dropout' in page
  assert (folder / 'report' / 'tests.own-images.csv').exists()
  assert capsys.readouterr().err == ''


def test_attention(folder):
  split, networks = attention.read([folder / 'teacher', folder / 'block-G-N-4-alpha-0'])
  looks = [attention.look(*each, split.images[:1]) for each in networks]
  assert [(name, each.shape) for name, each in looks[1].maps.items()] == [('map 1', (1, 4, 4)), ('map 2', (1, 2, 2))]
  attention.draw(folder / 'maps.svg', [0], split.images[:1], split.labels[:1], looks)
  assert '>map 2<' in (folder / 'maps.svg').read_text()


def test_a_run_with_dropout_goes_on_and_is_as_if_beside_others(folder, tmp_path, config):
  """The masks follow from the seed and the step alone: stopped after an epoch, and alone in its process."""
  config.model.network, config.distill.teacher, config.distill.beta = (
    'tests.own:with_dropout', str(folder / 'teacher'), 0.0)
  workdir = tmp_path / 'run'
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(train.metrics.Progress, 'epoch', lambda self, record, student: 1 / (2 - record['epoch']))
    with pytest.raises(ZeroDivisionError):
      train.train_and_evaluate(config, workdir)
  train.train_and_evaluate(config, workdir)
  ours, theirs = (checkpoint.Checkpoints(each).network()[1] for each in (
    workdir, folder / 'network-tests.own-with-dropout-beta-0'))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, theirs)


def first_step(config, network, devices, step=0):
  """The step's metrics and the state after it, of the initial parameters."""
  config.model.network = network
  source = datasets.open_source(config.data)
  replicas = parallel.Replicas(jax.devices()[:devices])
  student = steps.Network(create_model(config.model, 3, replicas.axis_name, (8, 8, 2)), (0.0,) * 2, (255.0,) * 2)
  tx = optim.create_optimizer(config, 1)
  state = steps.create_train_state(student, (8, 8, 2), tx, jax.random.key(0), jax.random.key(1))
  feed = feeds.ResidentFeed(source.read('train'), replicas)
  train_step = replicas.compile(steps.make_train_step([config], [student], None, tx, feed.gather, replicas))
  batch, = feed.batches([{'index': np.arange(16)}])
  states = replicas.replicate((state.replace(step=state.step + step),))
  (state,), (metrics,) = replicas.fetch(train_step(states, {}, feed.data, batch))
  return metrics, state


def test_bn_takes_the_statistics_of_all_devices(config):
  (metrics, state), (of_two, state_of_two) = (first_step(config, 'tests.own:with_norm', devices) for devices in (1, 2))
  np.testing.assert_allclose(metrics['loss'], of_two['loss'], rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
               state.variables, state_of_two.variables)
  assert state.batch_stats['Stage_0']['BatchNorm_0']['mean'].any()


def test_dropout_follows_from_the_step_and_the_device(config):
  config.data.pad = 0  # so that nothing else is random
  losses = [first_step(config, 'tests.own:with_dropout', *where)[0]['loss'] for where in ((1, 0), (1, 0), (1, 1), (2, 0))]
  assert losses[0] == losses[1] and len(set(map(float, losses))) == 3


@pytest.mark.parametrize(('fields', 'message'), [
  ({'model.network': 'tests.own:none'}, "config.model.network='tests.own:none': no none in tests.own: expected one of"),
  ({'model.network': 'tests.own:of_no_classes'}, 'config.model.network=.*: expected a function with a param'),
  ({'model.network': 'tests.own:no_module'}, 'config.model.network=.*returned a .*: expected a module of flax.linen'),
  ({'model.network': 'tests.own:wrong_classes'}, r'config.model.network=.*: gives logits of the shape \(2, 4\) for 2'),
  ({'model.network': 'tests.own:caching'}, 'the network has variables of cache: expected params, and batch_s'),
  ({'model.block': 'S,S,S'}, "config.model.block='S,S,S': .* is not a block: .*expected one for the whole net"),
  ({'model.block': 'G(3)'}, r"config.model.network=.*block='G\(3\)': Convnet: nothing in it is replaced: .*3 groups"),
  ({'model.dtype': 'bfloat16'}, "config.model.dtype='bfloat16': expected float32, as with_norm has no parameter dtype"),
  ({'data.train_split': 'training'}, "data set tests.own:images has no split 'training': expected train or test"),
  ({'model.network': 'tests.own:shallower', 'distill.teacher': '@'},
   "config.model.network='tests.own:shallower' gives 1 activations, the teacher 2: attention tr")])
def test_what_cannot_be_run(folder, tmp_path, config, fields, message, monkeypatch):
  monkeypatch.setattr(train.steps, 'make_train_loop', lambda *_: pytest.fail('work was begun'))
  config.update_from_flattened_dict(fields)
  if config.distill.teacher:
    config.distill.teacher = str(folder / 'teacher')
  with pytest.raises(UserError, match='^' + message):
    train.train_and_evaluate(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_a_student_of_a_function_has_no_depth(config):
  config.distill.students = ('block=G(N) depth=16',)
  with pytest.raises(UserError, match="'block=G.N. depth=16': expected no depth and no width: with_norm has neither"):
    config_lib.students(config)


def test_a_workdir_whose_function_is_gone(folder, tmp_path):
  shutil.copytree(folder / 'teacher', tmp_path / 'moved')
  config_file = tmp_path / 'moved' / 'config.json'
  config_file.write_text(config_file.read_text().replace('tests.own:with_norm', 'gone.py:with_norm'))
  with pytest.raises(UserError, match=f"^{config_file}: config.model.network='gone.py:with_norm': no file .*/gone.py"):
    results.collect(tmp_path)


def test_maps_of_another_size_are_told_of_and_averaged(folder, tmp_path, config, capsys):
  config.model.network, config.epochs = 'tests.own:larger', 1
  config.distill.teacher, config.distill.alpha = str(folder / 'teacher'), 0.0
  record, = train.train_and_evaluate(config, tmp_path / 'run').values()
  assert np.isfinite(record['train_at']) and record['train_at'] > 0
  assert re.findall('map of the student is (.*?), of the teacher (.*?):', capsys.readouterr().err) == [
    ('8x8', '4x4'), ('4x4', '2x2')]


def test_two_functions_of_one_name_are_two_networks(config):
  models = {'first': 'tests.own:with_norm', 'second': 'other/own.py:with_norm', 'third': 'tests.own:shallower'}
  found = []
  for name, network in models.items():
    config = own_config()
    config.model.network = network
    found.append(results.Run(name, config, None, 1, 1, 2, (2,), (1.0,), ()))
  assert tables.network_names(found) == {**models, 'third': 'shallower'}
