"""User-defined networks and data through the whole project; what cannot be run is refused before it begins."""

import shutil

import jax
import numpy as np
import pytest

from moonshine_jax import config as config_lib
from moonshine_jax.configs import digits
from moonshine_jax.data import feeds, sources
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError
from moonshine_jax.models.factory import create_model, create_network
from moonshine_jax.report import attention_maps, recipes, table_formats, writer
from moonshine_jax.report import runs as runs_lib
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.training import evaluation, loop, optimizer, progress
from moonshine_jax.training import step as step_lib
from moonshine_jax.training import teacher as teacher_lib
from tests.helpers import run_processes

pytestmark = pytest.mark.usefixtures('small_runs')


@pytest.fixture
def config():
  return user_config()


def user_config():
  config = digits.get_config()
  config.batch_size, config.epochs, config.checkpoint_every = 16, 2, 1
  config.model.network = 'tests.helpers.user:with_norm'
  config.data.name = 'tests.helpers.user:images'
  config.optimizer.decay_epochs = (1,)
  return config


@pytest.fixture(scope='module')
def folder(small_runs, tmp_path_factory):
  """A teacher with BN, and a student of it with cheap convolutions."""
  folder = tmp_path_factory.mktemp('user')
  loop.train_and_evaluate(user_config(), folder / 'teacher')
  config = user_config()
  config.distill.teacher = str(folder / 'teacher')
  config.distill.students = ('block=G(N/4) alpha=0',)
  loop.train_and_evaluate(config, folder)
  return folder


def test_evaluate_and_report(folder, capsys):
  result = evaluation.evaluate_workdir(folder / 'block-G-N-4-alpha-0')
  assert [result[name] for name in ('network', 'block', 'regime', 'examples')] == ['with_norm', 'G(N/4)', 'AT', 15]
  # The stem, stage 1 of 8 to 8 and stage 2 of 8 to 16 channels in groups of 4, their 1x1, and the logits.
  stem, logits = 64 * 9 * 2 * 8, 16 * 3
  cheap = 16 * (9 * 4 * 8 + 8 * 8) + 4 * (9 * 4 * 8 + 8 * 16)
  assert result['multiply_adds'] == stem + cheap + logits
  runs = runs_lib.collect_runs(folder)
  table = table_formats.summary_markdown(runs)
  assert 'with_norm (teacher) | S ' in table and 'with_norm           | G(N/4)' in table
  writer.write_report(folder, runs, folder / 'report', None)
  page = (folder / 'report' / 'index.html').read_text()
  assert 'Test error on images' in page and 'G(N/4)' in page
  assert (folder / 'report' / 'tests.helpers.user-images.csv').exists()
  assert capsys.readouterr().err == ''


def test_attention(folder):
  split, networks, _ = attention_maps.open_workdirs([folder / 'teacher', folder / 'block-G-N-4-alpha-0'])
  looks = [attention_maps.compute_maps(*network, split.images[:1]) for network in networks]
  assert [(name, values.shape) for name, values in looks[1].maps.items()] == [
    ('map 1', (1, 4, 4)),
    ('map 2', (1, 2, 2)),
  ]
  attention_maps.draw_attention_maps(folder / 'maps.svg', [0], split.images[:1], split.labels[:1], looks)
  assert '>map 2<' in (folder / 'maps.svg').read_text()


def test_a_run_with_dropout_and_without_bn_goes_on_to_the_same_bits(tmp_path, config):
  config.model.network = 'tests.helpers.user:with_dropout'
  loop.train_and_evaluate(config, tmp_path / 'whole')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(progress.ProgressBar, 'epoch', lambda self, record, student: 1 / (2 - record['epoch']))
    with pytest.raises(ZeroDivisionError):  # after the second epoch, before its checkpoint
      loop.train_and_evaluate(config, tmp_path / 'stopped')
  loop.train_and_evaluate(config, tmp_path / 'stopped')
  run_processes.assert_same(tmp_path / 'whole', tmp_path / 'stopped')
  result = evaluation.evaluate_workdir(tmp_path / 'whole')
  assert result['parameters'] == (9 * 2 * 8 + 8) + (9 * 8 * 8 + 8) + (9 * 8 * 16 + 16) + (16 * 3 + 3)
  assert result['multiply_adds'] == 64 * 9 * 2 * 8 + 16 * 9 * 8 * 8 + 4 * 9 * 8 * 16 + 16 * 3


def loss_at(config, devices, step):
  """The loss of the initial parameters of a network with dropout, on so many devices."""
  config.model.network = 'tests.helpers.user:with_dropout'
  source = sources.open_source(config.data)
  replicas = Replicas(jax.devices()[:devices])
  facts = Facts((8, 8, 2), 3, (0.0,) * 2, (255.0,) * 2)
  student = create_network(config.model, facts, replicas.axis_name)
  tx = optimizer.create_optimizer(config, 1)
  state = step_lib.create_train_state(student, (8, 8, 2), tx, jax.random.key(0), jax.random.key(1))
  feed = feeds.ResidentFeed(source.read('train'), replicas)
  train_step = replicas.compile(step_lib.make_train_step([config], [student], None, [tx], feed.gather, replicas))
  (batch,) = feed.batches([{'index': np.arange(16)}])
  states = replicas.replicate((state.replace(step=state.step + step),))
  _, (metrics,) = replicas.fetch(train_step(states, {}, feed.data, batch))
  return metrics['loss']


def test_bn_is_given_the_axis_of_the_devices(config):  # what it does with it: test_capture
  for network, block in (('with_norm', 'S'), ('with_norm', 'G(2)'), ('with_norm', 'S,B(2)'), ('larger', 'S')):
    config.model.network, config.model.block = f'tests.helpers.user:{network}', block
    assert create_model(config.model, 3, 'batch', (8, 8, 2)).axis_name == 'batch'


def test_dropout_follows_from_the_step_and_the_device(config):
  config.data.pad = 0  # so that nothing else is random
  losses = [float(loss_at(config, *where)) for where in ((1, 0), (1, 0), (1, 1), (2, 0))]
  assert losses[0] == losses[1] and len(set(losses)) == 3


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (
      {'model.network': 'tests.helpers.user:none'},
      "config.model.network='tests.helpers.user:none': no none in tests.helpers.user: expected one of",
    ),
    (
      {'model.network': 'tests.helpers.user:of_no_classes'},
      'config.model.network=.*: expected a function with a param',
    ),
    (
      {'model.network': 'tests.helpers.user:no_module'},
      'config.model.network=.*returned a .*: expected a module of flax.linen',
    ),
    (
      {'model.network': 'tests.helpers.user:wrong_classes'},
      r'config.model.network=.*: gives logits of the shape \(2, 4\) for 2',
    ),
    (
      {'model.network': 'tests.helpers.user:caching'},
      'the network has variables of cache: expected params, and batch_s',
    ),
    (
      {'model.network': 'tests.helpers.user:never_training'},
      "config.model.network='tests.helpers.user:never_training': training leaves running statistics as they are in bn:",
    ),
    (
      {'model.network': 'tests.helpers.user:never_training', 'model.block': 'G(N)'},
      "config.model.network='tests.helpers.user:never_training': training leaves running statistics as they are in bn:",
    ),
    (
      {'model.network': 'tests.helpers.user:always_training'},
      "config.model.network='tests.helpers.user:always_training': evaluation changes the running statistics of bn: exp",
    ),
    ({'model.block': 'G(N),X'}, "config.model.block='G.N.,X': 'X' is not a block"),
    ({'model.block': 'S,S,S'}, "config.model.network=.*block='S,S,S': 3 notations: expected 1, or 2: "),
    ({'model.block': 'G(3)'}, r"config.model.network=.*block='G\(3\)': Convnet: nothing in it is replaced: .*3 groups"),
    (
      {'model.dtype': 'bfloat16'},
      "config.model.dtype='bfloat16': expected float32, as with_norm has no parameter dtype",
    ),
    (
      {'data.train_split': 'training'},
      "data set tests.helpers.user:images has no split 'training': expected train or test",
    ),
    (
      {'model.network': 'tests.helpers.user:shallower', 'distill.teacher': '@'},
      "config.model.network='tests.helpers.user:shallower' gives 1 activations, the teacher 2: attention tr",
    ),
  ],
)
def test_what_cannot_be_run(folder, tmp_path, config, fields, message, monkeypatch):
  monkeypatch.setattr(step_lib, 'make_train_loop', lambda *_: pytest.fail('work was begun'))
  config.update_from_flattened_dict(fields)
  if config.distill.teacher:
    config.distill.teacher = str(folder / 'teacher')
  with pytest.raises(UserError, match='^' + message):
    loop.train_and_evaluate(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_frozen_statistics_are_told_of_once(config, capsys):
  config.model.network = 'tests.helpers.user:frozen_on_purpose'
  source = sources.open_source(config.data)
  for block in ('S', 'G(N)'):
    config.model.block = block
    teacher_lib.check_students([config] * 2, None, source)
  assert capsys.readouterr().err.splitlines() == [
    "warning: config.model.network='tests.helpers.user:frozen_on_purpose': training leaves running statistics as they "
    'are in bn'
  ]


def test_a_student_of_a_function_has_no_depth(config):
  config.distill.students = ('block=G(N) depth=16',)
  with pytest.raises(UserError, match="'block=G.N. depth=16': expected no depth and no width: with_norm has neither"):
    config_lib.students(config)


def test_a_report_needs_no_function(folder, tmp_path):
  shutil.copytree(folder / 'teacher', tmp_path / 'moved')
  config_file = tmp_path / 'moved' / 'config.json'
  config_file.write_text(config_file.read_text().replace('tests.helpers.user:with_norm', 'gone.py:with_norm'))
  (run,) = runs_lib.collect_runs(tmp_path)  # the counts are in its records
  assert run.config.model.network == 'gone.py:with_norm' and run.parameters > 0


def test_maps_of_another_size_are_told_of(folder, config, capsys):
  config.model.network, config.distill.teacher = 'tests.helpers.user:larger', str(folder / 'teacher')
  source = sources.open_source(config.data)
  teacher = teacher_lib.load_teacher([config] * 2, source, Replicas())
  teacher_lib.check_students([config] * 2, teacher, source)
  told = capsys.readouterr().err.splitlines()
  assert [line for line in told if 'map' in line] == [
    f'warning: an attention map of the student is {ours}, of the teacher {theirs}: the larger is averaged to the '
    'smaller'
    for ours, theirs in (('8x8', '4x4'), ('4x4', '2x2'))
  ]
  assert len(teacher_lib.activation_shapes(teacher.network, teacher.facts, '')) == 2


def test_two_functions_of_one_name_are_two_networks(config):
  models = {
    'first': 'tests.helpers.user:with_norm',
    'second': 'other/user.py:with_norm',
    'third': 'tests.helpers.user:shallower',
  }
  runs = []
  for name, network in models.items():
    config = user_config()
    config.model.network = network
    runs.append(runs_lib.Run(name, config, None, 1, 1, 2, (2,), (1.0,), ()))
  assert recipes.network_names(runs) == {**models, 'third': 'shallower'}
