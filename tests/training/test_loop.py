"""Whole runs: what they leave, going on where they were, distillation, and what is refused before they start."""

import copy
import errno
import os
import shlex
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from moonshine_jax import config as config_lib
from moonshine_jax.data import feeds, splits
from moonshine_jax.errors import Preempted, UserError
from moonshine_jax.report import runs as runs_lib
from moonshine_jax.report import table_formats
from moonshine_jax.runtime import files, signals
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.training import evaluation, loop, optimizer
from moonshine_jax.training.progress import ProgressBar
from moonshine_jax.workdir import checkpoint, metrics, provenance
from moonshine_jax.workdir.trained import Trained
from moonshine_jax.workdir.workdir import Workdir
from tests.helpers import run_processes
from tests.helpers.user import SMALLEST

pytestmark = pytest.mark.usefixtures('small_runs')


def variables_of(workdir):
  return Trained.open(workdir).variables


def test_a_run_leaves_all_that_is_needed_of_it(config, teacher, tmp_path):
  workdir, record = teacher
  assert record['epoch'] == 2 and record['step'] == 4  # 40 examples, batches of 16: two a epoch, the remainder dropped
  records = metrics.read(workdir)
  assert records[-1] == record and [each['epoch'] for each in records] == [1, 2]
  np.testing.assert_allclose([each['learning_rate'] for each in records], [0.1, 0.02], rtol=1e-6)
  assert record['best_test_error'] == min(each['test_error'] for each in records)
  assert record['train_loss'] == record['train_ce'] > 0
  assert Workdir(workdir).config.to_dict() == config.to_dict()

  with Workdir(workdir).lock():  # as a run does that is still training
    result = evaluation.evaluate_workdir(workdir)
  assert result['test_error'] == record['test_error'] and result['examples'] == 13
  np.testing.assert_allclose(result['test_loss'], record['test_loss'], rtol=1e-5)
  assert [result[name] for name in ('network', 'block', 'regime', 'data')] == ['WRN-10-1', 'S', 'none', 'tiny_images']
  wrong = result['test_error'] * 13 / 100
  assert abs(wrong - round(wrong)) < 1e-9  # of 13 examples, not of 16 places in the batch


def test_a_run_goes_on_where_it_was(config, teacher, tmp_path):
  """Stopped in its second epoch and started again, a run ends as one that never stopped, to the bit."""
  whole, _ = teacher
  workdir = tmp_path / 'stopped'

  class Stop(Exception):
    pass

  def stop(self, record, student):
    if record['epoch'] == 2:  # after its record, before its checkpoint
      raise Stop

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(ProgressBar, 'epoch', stop)
    with pytest.raises(Stop):
      loop.train_and_evaluate(config, workdir)
  assert [each['epoch'] for each in metrics.read(workdir)] == [1, 2]
  loop.train_and_evaluate(config, workdir)
  run_processes.assert_same(workdir, Path(whole))
  starts = provenance.read_starts(workdir)
  assert [start['step'] for start in starts] == [0, 2]
  assert starts[1]['jax'] == jax.__version__ and starts[1]['backend'] == 'cpu'
  assert shlex.split(starts[1]['command']) == sys.orig_argv
  assert starts[1]['config'] == config_lib.to_json(config) and starts[1]['commit']
  assert starts[1]['data']['image_shape'] == [8, 8, 3] and starts[1]['data']['num_classes'] == 3
  before = metrics.read(workdir)
  assert loop.train_and_evaluate(config, workdir) == {workdir: before[-1]}  # finished: nothing is done again
  assert metrics.read(workdir) == before


def test_a_run_that_is_preempted_anywhere_goes_on_inside_its_epoch(config, optimised, tmp_path, monkeypatch):
  """Four steps, one a dispatch, asked to stop at every place where it may be."""
  config.steps_per_dispatch = 1
  config.model.network = SMALLEST
  workdir = tmp_path / 'preempted'

  def stop_at(question):
    class Signals(signals.Signals):
      asked = 0

      @property
      def received(self):
        self.asked += 1
        return 'SIGTERM' if self.asked >= question else ''

      @received.setter
      def received(self, value):
        pass

    monkeypatch.setattr(signals, 'Signals', Signals)

  reached = []
  for question, step in [(1, 0), (2, 1), (2, 2), (2, 2), (3, 3), (2, 4)]:
    stop_at(question)
    with pytest.raises(Preempted, match=f'^SIGTERM after step {step} of 4 in {workdir}: the same command goes on'):
      loop.train_and_evaluate(config, workdir)
    assert checkpoint.Checkpoints(workdir, create=True).steps[-1:] == [step] * (step > 0)
    reached.append((step, len(metrics.read(workdir))))
  # Steps and records: the last step of an epoch is saved before its record, and again found where the record is there.
  assert reached == [(0, 0), (1, 0), (2, 0), (2, 1), (3, 1), (4, 1)]
  monkeypatch.undo()
  loop.train_and_evaluate(config, workdir)
  config.steps_per_dispatch = 20
  whole = tmp_path / 'whole'
  loop.train_and_evaluate(config, whole)
  Workdir(workdir).write_config(config)
  run_processes.assert_same(workdir, whole)


def test_what_is_not_a_number_ends_the_run_at_its_step(config, tmp_path, monkeypatch):
  # In the second epoch the third step blows up, the fourth sees it. No config may have such a rate.
  monkeypatch.setattr(optimizer, 'create_learning_rate_fn', lambda *_: lambda step: 0.1 * 1e30 ** (step >= 2))
  config.epochs = 3
  for _ in range(2):
    with pytest.raises(UserError) as error:
      loop.train_and_evaluate(config, tmp_path / 'run')
    assert str(error.value).startswith(f'{tmp_path}/run: not a number at step 4: ce nan, error ')
    assert str(error.value).endswith(f'the newest good checkpoint is {tmp_path}/run/checkpoints/2')
  assert checkpoint.Checkpoints(tmp_path / 'run').steps == [2]
  assert [each['epoch'] for each in metrics.read(tmp_path / 'run')] == [1]


def test_a_full_disk_is_one_line(config, tmp_path, monkeypatch):
  def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  append = files.append_record
  monkeypatch.setattr(
    files, 'append_record', lambda *args: (monkeypatch.setattr(files.os, 'fsync', full), append(*args))
  )
  with pytest.raises(UserError, match=f'^{tmp_path}/run.*: cannot be written: No space left on device$'):
    loop.train_and_evaluate(config, tmp_path / 'run')


def test_students_of_every_regime_and_their_table(config, teacher, tmp_path):
  workdir, _ = teacher
  config.model.block = 'S-2x2'
  config.epochs = 1
  mine = tmp_path / 'mine.py'
  mine.write_text(
    'def kd(student, teacher, labels): return ((student - teacher) ** 2).mean(-1)\n'
    'def at(student, teacher, labels): return ((student[0] - teacher[0]) ** 2).mean((1, 2, 3))\n'
  )
  of_the_user = {'kd_form': f'{mine}:kd', 'at_form': f'{mine}:at', 'beta': 1.0}
  for regime, distill, terms in [
    ('none', {'teacher': ''}, {'ce'}),
    ('KD', {'teacher': workdir, 'beta': 0.0}, {'ce', 'kd'}),
    ('AT', {'teacher': workdir, 'alpha': 0.0}, {'ce', 'at'}),
    ('KD+AT', {'teacher': workdir, **of_the_user}, {'ce', 'kd', 'at'}),
  ]:
    student = copy.deepcopy(config)
    student.distill.update(distill)
    assert config_lib.regime(student) == regime
    before = variables_of(workdir)
    (record,) = loop.train_and_evaluate(student, tmp_path / regime).values()
    assert {name for name in ('ce', 'kd', 'at') if f'train_{name}' in record} == terms
    jax.tree.map(np.testing.assert_array_equal, variables_of(workdir), before)  # the teacher stays as it was
    assert evaluation.evaluate_workdir(tmp_path / regime)['regime'] == regime
  with open(mine, 'a') as file:
    file.write('# another\n')
  with pytest.raises(UserError, match='KD.AT holds a run of another loss: .*mine.py has changed since it began'):
    loop.train_and_evaluate(student, tmp_path / 'KD+AT')
  lines = table_formats.summary_markdown(runs_lib.collect_runs(tmp_path)).splitlines()
  assert len(lines) == 4
  assert [cell.strip() for cell in lines[2].split('|')[1:3]] == ['WRN-10-1 (teacher)', 'S']
  assert [cell.strip() for cell in lines[3].split('|')[1:3]] == ['WRN-10-1', 'S-2x2']
  assert lines[3].count('(1)') == 4 and lines[2].count('(1)') == 1


def test_an_epoch_is_dispatched_in_order_and_never_far_ahead():
  """Of steps that count themselves: what is dispatched, and after which dispatches the host hears of it."""
  feed = feeds.ResidentFeed(splits.Split(np.zeros((22, 1), np.uint8), np.arange(22)), Replicas())
  events = []

  def train_loop(state, data, batches):
    assert data is feed.data
    np.testing.assert_array_equal(batches['index'], order[state : state + 2])
    events.append(f'dispatch {state}')
    return state + len(batches['index']), state

  def receive(metrics):
    events.append(f'receive {metrics}')

  def run_epoch(**stopped):
    return loop.run_epoch(train_loop, 0, feed.data, feed.epoch(3, 1, 2, 0, 2), receive, **stopped)

  order = feeds.epoch_order(3, 1, 22, 2)
  assert run_epoch() == 11
  assert events == [
    'dispatch 0',
    'dispatch 2',
    'dispatch 4',
    'dispatch 6',
    'receive 0',
    'dispatch 8',
    'receive 2',
    'dispatch 10',
    'receive 4',
    'receive 6',
    'receive 8',
    'receive 10',
  ]
  events.clear()
  assert run_epoch(stopped=lambda: len(events) == 2) == 4
  assert events == ['dispatch 0', 'dispatch 2', 'receive 0', 'receive 2']


def test_several_students_are_each_as_if_trained_alone(config, teacher, tmp_path):
  """Of one teacher pass a step: another block, regime, seed and optimiser; stopped on the way, and gone on."""
  config.distill.teacher = teacher[0]
  together = copy.deepcopy(config)
  together.distill.students = ('block=S-2x2 alpha=0', 'block=S-2x2 beta=0 seed=1', 'learning_rate=0.02 ema=0.5')
  students = config_lib.students(together)
  assert list(students) == ['block-S-2x2-alpha-0', 'block-S-2x2-beta-0-seed-1', 'learning-rate-0.02-ema-0.5']

  class Stop(Exception):
    pass

  save = checkpoint.Checkpoints.save

  def stop(self, step, trees, config, *args):
    if step == 4 and config.model.seed == 1:  # the first has saved, the third has not
      raise Stop
    save(self, step, trees, config, *args)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(checkpoint.Checkpoints, 'save', stop)
    with pytest.raises(Stop):
      loop.train_and_evaluate(together, tmp_path / 'together')
  records = loop.train_and_evaluate(together, tmp_path / 'together')
  for name, alone in students.items():
    workdir = tmp_path / 'together' / name
    ((expected_workdir, expected),) = loop.train_and_evaluate(alone, tmp_path / 'alone' / name).items()
    np.testing.assert_allclose(records[workdir]['train_loss'], expected['train_loss'], rtol=1e-3)
    assert records[workdir].keys() == expected.keys()
    assert records[workdir]['learning_rate'] == expected['learning_rate']
    assert ('ema_test_error' in expected) == ('ema' in name)
    assert [each['epoch'] for each in metrics.read(workdir)] == [1, 2]
    assert (workdir / 'config.json').read_text() == (expected_workdir / 'config.json').read_text()
    for (path, ours), theirs in zip(
      jax.tree.leaves_with_path(variables_of(workdir)), jax.tree.leaves(variables_of(expected_workdir)), strict=True
    ):
      np.testing.assert_allclose(
        ours, theirs, rtol=0, atol=1e-3 * max(np.abs(theirs).max(), 1), err_msg=name + jax.tree_util.keystr(path)
      )
