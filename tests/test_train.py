"""Whole runs: what they leave, going on where they were, distillation, and what is refused before they start."""

import copy
import pathlib

import flax.linen
import jax
import numpy as np
import pytest

from moonshine_jax import checkpoint, datasets, evaluate, feeds, metrics, parallel, report, train
from moonshine_jax import config as config_lib
from moonshine_jax.errors import UserError


@pytest.fixture(scope='module', autouse=True)
def smooth():
  """A smooth activation in place of ReLU: rounding flips ReLU's derivative at 0."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(flax.linen, 'relu', flax.linen.silu)
    yield


@pytest.fixture(scope='module', autouse=True)
def one_device():
  """Runs of one device compile in half the time; several are compared with one in test_steps."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, 'local_devices', lambda: jax.devices()[:1])
    yield


@pytest.fixture
def teacher(config, tmp_path):
  record, = train.train_and_evaluate(config, tmp_path / 'teacher').values()
  return str(tmp_path / 'teacher'), record


def variables_of(workdir):
  return checkpoint.Checkpoints(workdir).network()[1]


def test_a_run_leaves_all_that_is_needed_of_it(config, teacher, tmp_path):
  workdir, record = teacher
  assert record['epoch'] == 2 and record['step'] == 4  # 40 examples, batches of 16: two a epoch, the remainder dropped
  records = metrics.read(workdir)
  assert records[-1] == record and [each['epoch'] for each in records] == [1, 2]
  np.testing.assert_allclose([each['learning_rate'] for each in records], [0.1, 0.02], rtol=1e-6)
  assert record['best_test_error'] == min(each['test_error'] for each in records)
  assert record['train_loss'] == record['train_ce'] > 0
  assert config_lib.read(workdir).to_dict() == config.to_dict()

  result = evaluate.evaluate(workdir)
  assert result['test_error'] == record['test_error'] and result['examples'] == 13
  np.testing.assert_allclose(result['test_loss'], record['test_loss'], rtol=1e-5)
  assert [result[name] for name in ('network', 'block', 'regime', 'data')] == ['WRN-10-1', 'S', 'none', 'tiny_images']
  wrong = result['test_error'] * 13 / 100
  assert abs(wrong - round(wrong)) < 1e-9  # of 13 examples, not of 16 places in the batch


def test_a_run_goes_on_where_it_was(config, teacher, tmp_path):
  """Stopped after its first epoch and started again, a run ends as one that never stopped, to the bit."""
  whole, _ = teacher
  workdir = tmp_path / 'stopped'

  class Stop(Exception):
    pass

  def stop(self, record, student):
    raise Stop

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(metrics.Progress, 'epoch', stop)
    with pytest.raises(Stop):
      train.train_and_evaluate(config, workdir)
  assert [each['epoch'] for each in metrics.read(workdir)] == [1]
  train.train_and_evaluate(config, workdir)
  jax.tree.map(np.testing.assert_array_equal, variables_of(workdir), variables_of(whole))
  for ours, theirs in zip(metrics.read(workdir), metrics.read(whole), strict=True):
    assert {**ours, 'images_per_second': 0} == {**theirs, 'images_per_second': 0}
  before = metrics.read(workdir)
  assert train.train_and_evaluate(config, workdir) == {workdir: before[-1]}  # finished: nothing is done again
  assert metrics.read(workdir) == before


def test_students_of_every_regime_and_their_table(config, teacher, tmp_path):
  workdir, _ = teacher
  config.model.block = 'G(N/8)'
  config.epochs = 1
  for regime, distill, terms in [
    ('none', {'teacher': ''}, {'ce'}),
    ('KD', {'teacher': workdir, 'beta': 0.0}, {'ce', 'kd'}),
    ('AT', {'teacher': workdir, 'alpha': 0.0}, {'ce', 'at'}),
    ('KD+AT', {'teacher': workdir}, {'ce', 'kd', 'at'})]:
    student = copy.deepcopy(config)
    student.distill.update(distill)
    assert config_lib.regime(student) == regime
    before = variables_of(workdir)
    record, = train.train_and_evaluate(student, tmp_path / regime).values()
    assert {name for name in ('ce', 'kd', 'at') if f'train_{name}' in record} == terms
    jax.tree.map(np.testing.assert_array_equal, variables_of(workdir), before)  # the teacher stays as it was
    assert evaluate.evaluate(tmp_path / regime)['regime'] == regime
  lines = report.table(report.collect(tmp_path)).splitlines()
  assert len(lines) == 4
  assert [cell.strip() for cell in lines[2].split('|')[1:3]] == ['WRN-10-1 (teacher)', 'S']
  assert [cell.strip() for cell in lines[3].split('|')[1:3]] == ['WRN-10-1', 'G(N/8)']
  assert lines[3].count('(1)') == 4 and lines[2].count('(1)') == 1


def test_an_epoch_is_dispatched_in_order_and_never_far_ahead(monkeypatch):
  """Of steps that count themselves: what is handed on, what is told, and for which dispatch the host waits."""
  waited, advanced = [], []
  monkeypatch.setattr(train.jax, 'block_until_ready', lambda metrics: waited.append(metrics[0]['step'].tolist()))
  feed = feeds.ResidentFeed(datasets.Split(np.zeros((22, 1), np.uint8), np.arange(22)), parallel.Replicas())

  def train_loop(state, teacher_variables, data, batches):
    assert teacher_variables == 'teacher' and data is feed.data
    np.testing.assert_array_equal(batches['index'], order[state:state + 2])
    steps = len(batches['index'])
    return state + steps, ({'step': np.arange(state, state + steps)},)

  order = np.arange(22).reshape(11, 2)
  state, dispatches = train.run_epoch(train_loop, 0, 'teacher', feed, order, 2, advanced.append)
  assert state == 11 and advanced == [2, 2, 2, 2, 2, 1]
  seen = [each['step'].tolist() for each, in dispatches]
  assert seen == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10]]
  assert waited == [seen[0], seen[0], seen[0], seen[0], seen[1], seen[2]]  # the fourth last, as train.IN_FLIGHT says


def forbid_work(patch):
  """Fails the test where anything is read, prepared or compiled."""
  for target, name in [
    (datasets.TfdsSource, 'read'), (datasets.DigitsSource, 'read'), (train.steps, 'create_train_state')]:
    patch.setattr(target, name, lambda *args, **kwargs: pytest.fail('work was begun'))


def test_several_students_are_each_as_if_trained_alone(config, teacher, tmp_path):
  """Of one teacher pass a step: another block, another regime, another seed; stopped on the way, and gone on."""
  config.distill.teacher = teacher[0]
  together = copy.deepcopy(config)
  together.distill.students = ('block=G(N/8) alpha=0', 'block=BG(2,M/8) beta=0 seed=1', 'alpha=0 beta=0')
  students = config_lib.students(together)
  assert list(students) == ['block-G-N-8-alpha-0', 'block-BG-2-M-8-beta-0-seed-1', 'alpha-0-beta-0']

  class Stop(Exception):
    pass

  def stop(self, record, student):
    if record['epoch'] == 1 and student == 'block-BG-2-M-8-beta-0-seed-1':  # the third has saved nothing
      raise Stop

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(metrics.Progress, 'epoch', stop)
    with pytest.raises(Stop):
      train.train_and_evaluate(together, tmp_path / 'together')
  records = train.train_and_evaluate(together, tmp_path / 'together')
  for name, alone in students.items():
    workdir = tmp_path / 'together' / name
    (expected_workdir, expected), = train.train_and_evaluate(alone, tmp_path / 'alone' / name).items()
    np.testing.assert_allclose(records[workdir]['train_loss'], expected['train_loss'], rtol=1e-3)
    assert records[workdir].keys() == expected.keys()
    assert [each['epoch'] for each in metrics.read(workdir)] == [1, 2]
    assert (workdir / 'config.json').read_text() == (expected_workdir / 'config.json').read_text()
    for (path, ours), theirs in zip(
        jax.tree.leaves_with_path(variables_of(workdir)), jax.tree.leaves(variables_of(expected_workdir)), strict=True):
      np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3 * max(np.abs(theirs).max(), 1),
                                 err_msg=name + jax.tree_util.keystr(path))


@pytest.mark.parametrize(('saved', 'expected'), [
  (([], []), 0), (([4], [4]), 4), (([2, 4], [2]), 2), (([2], []), 0), (([2, 4], [4, 6]), 4)])
def test_students_go_on_from_the_newest_step_that_all_have(saved, expected):
  assert train.common_step({pathlib.Path(f'run/{i}'): each for i, each in enumerate(saved)}, last_step=8) == expected


@pytest.mark.parametrize('saved', [([2, 4], []), ([6, 8], [2]), ([8], []), ([4, 6], [2])])
def test_students_that_are_not_of_one_run_are_refused(saved):
  with pytest.raises(UserError, match=r'^run: the students are at different steps \(0 \d, 1 \d\)'):
    train.common_step({pathlib.Path(f'run/{i}'): each for i, each in enumerate(saved)}, last_step=8)


def test_a_teacher_that_does_not_fit_is_refused_before_any_work(config, teacher, tmp_path, monkeypatch):
  forbid_work(monkeypatch)
  config.distill.teacher = teacher[0]
  config.data.name = 'digits'
  with pytest.raises(
      UserError, match=r'config.distill.teacher=.*3 classes and images of \(8, 8, 3\).*10 classes and .*1\)'):
    train.train_and_evaluate(config, tmp_path / 'student')
  config.distill.teacher = str(tmp_path / 'nowhere')
  with pytest.raises(UserError, match='config.distill.teacher=.*nowhere: no such folder'):
    train.train_and_evaluate(config, tmp_path / 'student')
  assert not (tmp_path / 'student').exists()


def test_a_workdir_of_another_config_is_refused_with_the_difference(config, teacher, monkeypatch):
  workdir, _ = teacher
  forbid_work(monkeypatch)
  config.model.block = 'G(2)'
  config.optimizer.decay_epochs = (1, 2)
  config.data.feed = 'stream'  # makes no difference to the run, and so none here
  with pytest.raises(UserError) as error:
    train.train_and_evaluate(config, workdir)
  assert str(error.value).startswith(
    f"{workdir} holds a run of another config: "
    "config.model.block='G(2)' (there: 'S'), config.optimizer.decay_epochs=(1, 2) (there: (1,)): ")


def test_a_workdir_that_cannot_be_written_is_named(config, tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='file/run: cannot be written as a workdir'):
    config_lib.write(config, tmp_path / 'file' / 'run')


def test_a_batch_larger_than_the_data_is_refused(config, tmp_path, monkeypatch):
  monkeypatch.setattr(train.steps, 'create_train_state', lambda *args: pytest.fail('work was begun'))
  config.batch_size = 41
  with pytest.raises(UserError, match='config.batch_size=41: expected at most the 40 training examples'):
    train.train_and_evaluate(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_a_batch_that_the_devices_cannot_share_is_refused(config, tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'local_devices', lambda: [object()] * 3)
  monkeypatch.setattr(train, 'Replicas', lambda: [object()] * 3)
  with pytest.raises(UserError, match='config.batch_size=16: expected a multiple of the 3 devices'):
    train.train_and_evaluate(config, tmp_path)
