"""Real processes over loopback: they train what one process trains, end together, and go on in another number.

`pytest --kills=N` with N above 2 adds the long version: four processes, a stream, two students, the true time limits.
"""

import json
import os
import random
import re
import signal
import socket
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from moonshine_jax import errors
from moonshine_jax.cli import app
from moonshine_jax.errors import UserError
from moonshine_jax.runtime import processes, watchdog
from moonshine_jax.training import loop
from moonshine_jax.workdir import metrics, provenance
from tests.helpers import run_processes

EPOCHS = 3
FLAGS = (
  '--config=configs/digits.py',
  f'--config.epochs={EPOCHS}',
  '--config.batch_size=128',
  '--config.steps_per_dispatch=2',
  '--config.checkpoint_every=1',
  '--config.model.depth=10',
  '--config.optimizer.learning_rate=0.01',
  '--config.optimizer.decay_epochs=(2,)',
)
STEPS = 10 * EPOCHS
SILENCE_SECONDS = 4.0  # where a loss is waited for; elsewhere a busy machine may keep a process waiting for longer
LOST = (
  r'error: process {} has ended or does not answer: see its output; the same command on all processes goes on '
  'from the newest checkpoint\n'
)


class Processes:
  """A command in so many processes, each with so many devices; their output in files beside the workdir."""

  def __init__(self, workdir, number, devices, *flags, pause=0.0, silence=watchdog.SILENCE_SECONDS, command='train'):
    with socket.socket() as free:
      free.bind(('127.0.0.1', 0))
      port = free.getsockname()[1]
    self.paths = [f'{workdir}.{i}-of-{number}' for i in range(number)]
    self.all = []
    for i, path in enumerate(self.paths):
      for stream in ('out', 'err'):
        if os.path.exists(f'{path}.{stream}'):
          os.unlink(f'{path}.{stream}')
      joined = (
        []
        if number == 1
        else [
          '--distributed',
          f'--coordinator_address=127.0.0.1:{port}',
          f'--num_processes={number}',
          f'--process_id={i}',
        ]
      )
      arguments = [*(FLAGS if command == 'train' else ()), f'--workdir={workdir}', *joined, *flags]
      self.all.append(
        run_processes.CONTEXT.Process(target=_command, args=(command, arguments, path, devices, pause, silence))
      )
      self.all[-1].start()

  def finish(self, seconds=600):
    """The exit statuses."""
    limit = time.monotonic() + seconds
    for process in self.all:
      process.join(max(0.0, limit - time.monotonic()))
    late = [process for process in self.all if process.is_alive()]
    for process in late:
      process.kill()
    assert not late, self.errors
    return [process.exitcode for process in self.all]

  def wait_for(self, condition, seconds=300):
    """Waits until it is true."""
    limit = time.monotonic() + seconds
    while not condition():
      assert time.monotonic() < limit and self.all[0].is_alive(), self.errors
      time.sleep(0.05)

  def has_trained(self):
    """Whether an epoch has been told of."""
    return 'epoch' in self.errors[0]

  @property
  def outputs(self):
    return [_read(f'{path}.out') for path in self.paths]

  @property
  def errors(self):
    return [_read(f'{path}.err') for path in self.paths]


def _read(path):
  if not os.path.exists(path):
    return ''
  with open(path) as file:
    return file.read()


def _command(command, arguments, path, devices, pause, silence):
  jax.config.update('jax_num_cpu_devices', devices)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)  # as a run has it that names the cache itself
  for stream, name in ((sys.stdout, 'out'), (sys.stderr, 'err')):
    with open(f'{path}.{name}', 'w') as file:
      os.dup2(file.fileno(), stream.fileno())
  jax.nn.relu = jax.nn.silu  # smooth: rounding flips ReLU's derivative at 0
  watchdog.SILENCE_SECONDS = silence
  run_epoch = loop.run_epoch
  loop.run_epoch = lambda train_loop, *args, **kwargs: run_epoch(
    lambda *each: (time.sleep(pause), train_loop(*each))[1], *args, **kwargs
  )
  app.run(command, arguments)


def assert_close(ours, theirs, steps=STEPS):
  """Of two workdirs: the same state at the last step and the same records, to float32 rounding."""
  trees = [
    [
      ocp.StandardCheckpointer().restore(workdir / 'checkpoints' / str(steps) / item)
      for item in ('variables', 'progress')
    ]
    for workdir in (ours, theirs)
  ]
  pairs = list(zip(jax.tree.leaves_with_path(trees[0]), jax.tree.leaves(trees[1]), strict=True))
  assert len(pairs) > 20
  for (path, left), right in pairs:
    np.testing.assert_allclose(
      left, right, rtol=0, atol=2e-4 * max(1.0, np.abs(right).max()), err_msg=jax.tree_util.keystr(path)
    )
  records = [metrics.read(workdir) for workdir in (ours, theirs)]
  assert [each['epoch'] for each in records[0]] == list(range(1, EPOCHS + 1))
  for left, right in zip(*records, strict=True):
    assert left.keys() == right.keys()
    for name in left.keys() - {'images_per_second'}:
      # An error in percent moves by whole images where two logits are equal to rounding.
      np.testing.assert_allclose(
        left[name], right[name], rtol=1e-3, atol=0.2 if 'error' in name else 1e-4, err_msg=name
      )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """For workdirs: those in one folder share their compiled steps."""
  return tmp_path_factory.mktemp('distributed')


@pytest.fixture(scope='module')
def alone(folder):
  """A run of one process with four devices."""
  processes = Processes(folder / 'alone', 1, 4)
  assert processes.finish() == [0], processes.errors
  return folder / 'alone'


@pytest.fixture(scope='module')
def together(folder):
  """One of two processes with two devices each."""
  processes = Processes(folder / 'together', 2, 2)
  assert processes.finish() == [0, 0], processes.errors
  return folder / 'together', processes


def test_two_processes_train_what_one_trains(alone, together):
  workdir, processes = together
  assert_close(workdir, alone)
  # The first alone writes, once; a test error of whole images and an equal loss: every example was counted once.
  assert [path.name for path in sorted(workdir.iterdir())] == [path.name for path in sorted(alone.iterdir())]
  assert [path.name for path in sorted((workdir / 'checkpoints').iterdir())] == ['20', '30']
  assert len(list((workdir / 'tensorboard').iterdir())) == 1
  (start,) = provenance.read_starts(workdir)
  assert (start['devices'], start['processes']) == (4, 2)
  assert metrics.read(workdir)[-1]['test_error'] * 5 % 1 == 0
  assert re.fullmatch(f'{workdir}: test error .* after {EPOCHS} epochs .*\n', processes.outputs[0])
  assert [line.split()[:2] for line in processes.errors[0].splitlines()] == [
    ['epoch', f'{i}/{EPOCHS}'] for i in range(1, EPOCHS + 1)
  ]
  assert processes.outputs[1] == processes.errors[1] == ''


def test_a_signal_to_one_stops_all_and_another_number_goes_on(alone, folder, together):
  workdir = folder / 'stopped'
  processes = Processes(workdir, 2, 2, pause=0.4)
  processes.wait_for((workdir / 'checkpoints' / '10').exists)
  os.kill(processes.all[1].pid, signal.SIGTERM)
  assert processes.finish(60) == [errors.RESUME_ME] * 2, processes.errors
  (told,) = re.findall(
    r'^preempted: SIGTERM after step (\d+) of 30 in .*: the same command goes on from there$', processes.errors[0], re.M
  )
  assert 10 <= int(told) < 30 and (workdir / 'checkpoints' / told).is_dir()
  assert re.fullmatch('warning: SIGTERM: saving .*\n', processes.errors[1]) or processes.errors[1] == ''
  processes = Processes(workdir, 1, 4)
  assert processes.finish() == [0], processes.errors
  assert_close(workdir, alone)


@pytest.mark.parametrize('lost', [0, 1])
def test_the_loss_of_one_ends_the_others(folder, together, lost):
  workdir = folder / f'lost-{lost}'
  processes = Processes(workdir, 2, 2, pause=0.4, silence=SILENCE_SECONDS)
  processes.wait_for((workdir / 'checkpoints' / '10').exists)
  processes.all[lost].kill()
  statuses = processes.finish(SILENCE_SECONDS + 10)
  assert statuses == ([-signal.SIGKILL, 1] if lost == 0 else [1, -signal.SIGKILL]), processes.errors
  survivor = processes.errors[1 - lost]
  assert survivor.endswith(LOST.format(lost)) and survivor.count('error: ') == 1, survivor
  if lost == 1:
    assert all(line.startswith(('epoch', 'error')) for line in survivor.splitlines()), survivor


def test_a_mistake_ends_all_and_is_told_once(together):
  workdir, _ = together
  processes = Processes(workdir, 2, 2, '--config.seed=1')
  assert processes.finish() == [2, 2], processes.errors
  assert re.fullmatch(f'error: {workdir} holds a run of another config: config.seed=1 .*\n', processes.errors[0])
  assert processes.errors[1] == '' and processes.outputs == ['', '']


def test_four_processes_of_every_feed_with_students_and_the_true_limits(alone, folder, kills):
  if kills <= 2:
    pytest.skip('long: pytest --kills=3')
  flags = (
    f'--config.distill.teacher={alone}',
    '--config.data.feed=stream',
    "--config.distill.students=('block=B(2) alpha=0', 'block=B(2) beta=0 seed=1')",
  )
  one = Processes(folder / 'students', 1, 4, *flags)
  assert one.finish() == [0], one.errors
  workdir = folder / 'students-of-four'
  rng = random.Random(kills)
  for _ in range(kills):
    processes = Processes(workdir, 4, 1, *flags, pause=0.5)
    processes.wait_for(processes.has_trained, 900)
    if f'epoch {EPOCHS}/' in processes.errors[0]:
      assert processes.finish() == [0] * 4, processes.errors
      break
    lost, which = rng.randrange(4), rng.choice([signal.SIGKILL, signal.SIGTERM])
    start = time.monotonic()
    os.kill(processes.all[lost].pid, which)
    statuses = processes.finish(watchdog.SILENCE_SECONDS + 15)
    print(f'{which.name} to process {lost}: {statuses} after {time.monotonic() - start:.1f} s')
    if which == signal.SIGKILL:
      assert statuses == [-which if each == lost else 1 for each in range(4)], processes.errors
      assert processes.errors[0 if lost else 1].endswith(LOST.format(lost)), processes.errors
    else:
      assert statuses == [errors.RESUME_ME] * 4, processes.errors
  processes = Processes(workdir, 2, 2, *flags)
  assert processes.finish() == [0, 0], processes.errors
  for name in ('block-B-2-alpha-0', 'block-B-2-beta-0-seed-1'):
    assert_close(workdir / name, folder / 'students' / name)


def test_evaluation_by_two_processes(together):
  """Each example once: 500 in batches of 128 of four devices."""
  workdir, _ = together
  processes = Processes(workdir, 2, 2, '--json', command='evaluate')
  assert processes.finish() == [0, 0], processes.errors
  assert processes.outputs[1] == '' and processes.errors == ['', '']
  record = metrics.read(workdir)[-1]
  result = json.loads(processes.outputs[0])
  assert result['test_error'] == record['test_error'] and result['examples'] == 500
  np.testing.assert_allclose(result['test_loss'], record['test_loss'], rtol=1e-6)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ((False, 'host:1', 2, 0), 'expected all three, with --distributed'),
    ((True, 'host:1', None, 0), 'expected all three'),
    ((True, 'host', 2, 0), '--coordinator_address=host: expected HOST:PORT'),
    ((True, 'host:70000', 2, 0), '--coordinator_address=host:70000: expected HOST:PORT'),
    ((True, 'host:1', 0, 0), '--num_processes=0: expected at least 1'),
    ((True, 'host:1', 2, 2), '--process_id=2: expected at least 0 and less than --num_processes=2'),
  ],
)
def test_flags_that_do_not_fit(arguments, message):
  with pytest.raises(UserError, match=message), processes.connect(*arguments):
    pass
