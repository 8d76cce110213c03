"""Real processes of `moonshine_jax.main` that a test starts, signals and kills; what they leave is compared to the bit.

They are forked from a server that has imported the package, which takes seconds, but has not touched a device.
"""

import contextlib
import itertools
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from moonshine_jax import errors
from moonshine_jax.cli import app
from moonshine_jax.training import loop
from moonshine_jax.workdir import metrics
from moonshine_jax.workdir.workdir import Workdir
from tests.helpers.user import SMALLEST

FLAGS = (
  '--config=configs/digits.py',
  '--config.epochs=6',
  '--config.batch_size=32',
  '--config.data.train_split=train[:320]',
  '--config.data.test_split=test[:100]',
  '--config.steps_per_dispatch=2',
  '--config.checkpoint_every=1',
  f'--config.model.network={SMALLEST}',
  '--config.optimizer.decay_epochs=(2,4)',
)
STEPS = 60  # of that run: 10 an epoch
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)  # as often as they are drawn
CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload([loop.__name__, 'moonshine_jax.runtime.processes', 'sklearn.datasets', 'pytest'])


def start(workdir: Path, *flags: str) -> multiprocessing.Process:
  """A process of the command on one device, its stderr in a file beside the workdir."""
  process = CONTEXT.Process(target=_command, args=([*FLAGS, f'--workdir={workdir}', *flags], f'{workdir}.err'))
  process.start()
  return process


def finish(workdir: Path, *flags: str) -> int:
  """The exit status of a command that is left alone."""
  process = start(workdir, *flags)
  process.join()
  return process.exitcode


def _command(arguments, stderr):
  jax.config.update('jax_num_cpu_devices', 1)
  jax.config.update('jax_disable_most_optimizations', False)  # the steps of two feeds round alike then
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)  # as a run has it that names the cache itself
  _redirect(os.devnull, stderr)
  app.run('train', arguments)


def _redirect(stdout, stderr):
  for stream, path in ((sys.stdout, stdout), (sys.stderr, stderr)):
    with open(path, 'a') as file:
      os.dup2(file.fileno(), stream.fileno())


def run_module(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess:
  """Runs `python -m MODULE ARGUMENTS` without the seconds of a new interpreter; its output is kept in a folder."""
  outputs = folder / 'out', folder / 'err'
  process = CONTEXT.Process(target=_module, args=(module, arguments, *outputs))
  process.start()
  process.join()
  return subprocess.CompletedProcess([module, *arguments], process.exitcode, *(path.read_text() for path in outputs))


def _module(module, arguments, stdout, stderr):
  _redirect(stdout, stderr)
  sys.path.insert(0, os.getcwd())
  sys.argv = [module, *arguments]
  runpy.run_module(module, run_name='__main__', alter_sys=True)


def run_and_copy(workdir: Path, copy: Path, *flags: str) -> None:
  """Runs a command to its end, and copies its workdir in the middle of a save, as SIGKILL would leave it there.

  Args:
    workdir: of the run.
    copy: for the copy, in which every network has a checkpoint that is whole, too.
    *flags: of the command.
  """
  for _ in range(3):  # a save is short: a busy machine may miss all of a run
    process = start(workdir, *flags)
    while process.is_alive() and not _copy_in_a_save(process.pid, workdir, copy):
      time.sleep(0.001)
    process.join()
    assert process.exitcode == 0, errors_of(workdir)
    if copy.exists():
      return
    shutil.rmtree(workdir)
  raise AssertionError('no save was seen')


def _copy_in_a_save(pid: int, workdir: Path, copy: Path) -> bool:
  """Whether a run stands in the middle of a save, not of its first, and was copied there."""
  if not (half_written(workdir) and 0 < newest_of_all(workdir) <= STEPS // 2):  # there is time for another signal
    return False
  os.kill(pid, signal.SIGSTOP)
  time.sleep(0.05)  # until all of its threads stand still
  with contextlib.suppress(shutil.Error, FileNotFoundError):  # of a file that they have moved before
    shutil.copytree(workdir, copy)
  os.kill(pid, signal.SIGCONT)
  if half_written(copy) and newest_of_all(copy):
    return True
  shutil.rmtree(copy, ignore_errors=True)
  return False


def stop_after_a_save(workdir: Path, which: int, *flags: str) -> int:
  """Starts a command, and sends it a signal once it has saved. Returns the exit status."""
  before = newest_of_all(workdir)
  process = start(workdir, *flags)
  while process.is_alive() and newest_of_all(workdir) == before:
    time.sleep(0.01)
  if process.is_alive():
    os.kill(process.pid, which)
  process.join()
  return process.exitcode


def newest_of_all(workdir: Path) -> int:
  """The newest step that all networks of a run have a whole checkpoint of; 0 where there is none."""
  folders = [folder for each in ('', '*/') for folder in workdir.glob(f'{each}checkpoints')]
  steps = [{int(path.name) for path in folder.iterdir() if path.name.isdigit()} for folder in folders]
  return max(set.intersection(*steps), default=0) if steps else 0


def errors_of(workdir: Path) -> str:
  """What a command has said on stderr."""
  return Path(f'{workdir}.err').read_text()


def interrupt(
  workdir: Path, seconds: float, kills: int, seed: int, check: Callable[[], None], *flag_sets: tuple[str, ...]
) -> Counter:
  """Runs a command to its end, however often it is stopped on the way by a random signal at a random time.

  Args:
    workdir: of the run.
    seconds: within which each start is stopped.
    kills: how often; a run that comes to its end before is checked, and begun anew.
    seed: of the times and the signals.
    check: raises where the run has not ended as it should.
    flag_sets: the starts take them in turn.

  Returns:
    How often each signal found the process running, how many of them made it save, how many half-written checkpoints
    they left, and how many runs came to their end.
  """
  rng, found, starts = random.Random(seed), Counter(), itertools.cycle(flag_sets)
  while True:
    process = start(workdir, *next(starts))
    if sum(found[each.name] for each in set(SIGNALS)) < kills:
      process.join(rng.uniform(0, seconds))
      if rng.random() < 0.5:  # saves are short: half of the signals wait for one
        while process.is_alive() and not half_written(workdir):
          time.sleep(0.001)
    else:
      process.join()
    if process.is_alive():
      which = rng.choice(SIGNALS)
      os.kill(process.pid, which)
      process.join()
      if process.exitcode != 0:  # else it was at its very end
        # Saved, or, where it had not begun, by the signal's own way.
        expected = {-which} if which == signal.SIGKILL else {-which, 1, 128 + which, errors.RESUME_ME}
        assert process.exitcode in expected, (which, process.exitcode, errors_of(workdir))
        found[which.name] += 1
        found['saved'] += process.exitcode == errors.RESUME_ME
        found['half-written'] += half_written(workdir)
        continue
    assert process.exitcode == 0, errors_of(workdir)
    check()
    found['ends'] += 1
    if sum(found[each.name] for each in set(SIGNALS)) >= kills:
      return found
    shutil.rmtree(workdir)


def half_written(workdir: Path) -> int:
  """The checkpoints, of all students, that are being written or were when their process was killed."""
  return sum(len(list(workdir.glob(f'{each}checkpoints/*.orbax-checkpoint-tmp'))) for each in ('', '*/'))


def seconds_of(workdir: Path, *flags: str) -> float:
  """Runs a command to its end and says how long it took."""
  begin = time.perf_counter()
  assert finish(workdir, *flags) == 0, errors_of(workdir)
  return time.perf_counter() - begin


def assert_same(ours: Path, theirs: Path) -> None:
  """Of two workdirs: the same arrays to the bit in the newest checkpoint, the same records but for the speed."""
  newest = [max(int(path.name) for path in (workdir / 'checkpoints').iterdir()) for workdir in (ours, theirs)]
  assert newest[0] == newest[1]
  for item in ('variables', 'progress'):
    trees = [
      ocp.StandardCheckpointer().restore(workdir / 'checkpoints' / str(newest[0]) / item) for workdir in (ours, theirs)
    ]
    leaves = [jax.tree.leaves_with_path(tree) for tree in trees]
    assert len(leaves[0]) == len(leaves[1]) > 5
    for (path, left), (_, right) in zip(*leaves, strict=True):
      np.testing.assert_array_equal(left, right, err_msg=jax.tree_util.keystr(path), strict=True)
  records = [metrics.read(workdir) for workdir in (ours, theirs)]
  for each in records:
    assert (ours / 'metrics.jsonl').read_bytes().endswith(b'\n')
    first = 0 if Workdir(ours).config.distill.start else 1
    assert [record['epoch'] for record in each] == list(range(first, len(each) + first))
  assert [{**each, 'images_per_second': 0} for each in records[0]] == [
    {**each, 'images_per_second': 0} for each in records[1]
  ]
