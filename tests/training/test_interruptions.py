"""Runs that are killed, stopped and started again by another feed end as runs that never were.

`pytest --kills=100` adds the long version: signals at random times.
"""

import signal

import pytest

from moonshine_jax import errors
from moonshine_jax.workdir import provenance
from tests.helpers import run_processes

STUDENTS = {  # of every regime with a teacher, by the folder of each
  'block-S-alpha-0': 'block=S alpha=0',
  'block-S-beta-0-seed-1': 'block=S beta=0 seed=1',
  'block-S-seed-2': 'block=S seed=2',
}
STREAM = '--config.data.feed=stream'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """For workdirs: those in one folder share their compiled steps."""
  return tmp_path_factory.mktemp('runs')


@pytest.fixture(scope='module')
def teacher(folder):
  """A run that is left alone."""
  run_processes.run_and_copy(folder / 'teacher', folder / 'killed')
  return folder / 'teacher'


@pytest.fixture(scope='module')
def students(folder, teacher):
  """A run of students that is left alone, and its flags."""
  flags = (f'--config.distill.students={tuple(STUDENTS.values())}', f'--config.distill.teacher={teacher}')
  run_processes.run_and_copy(folder / 'students', folder / 'killed_students', *flags)
  return folder / 'students', flags


def stop_and_finish(workdir, one, which, flags):
  """Goes on where a run was killed, by the stream; stops it by a signal, and goes on by the resident feed to its end.

  Args:
    workdir: of the run.
    one: the workdir of one of its networks.
    which: the signal.
    flags: of the command.
  """
  assert run_processes.half_written(workdir)
  status = run_processes.stop_after_a_save(workdir, which, *flags, STREAM)
  assert status == errors.RESUME_ME, run_processes.errors_of(workdir)
  assert run_processes.finish(workdir, *flags) == 0, run_processes.errors_of(workdir)
  first, second, third = [start['step'] for start in provenance.read_starts(one)]
  assert 0 == first < second < third < run_processes.STEPS  # both feeds have trained


def test_a_teacher_ends_with_the_same_bits_by_either_feed(folder, teacher):
  workdir = folder / 'killed'
  stop_and_finish(workdir, workdir, signal.SIGTERM, ())
  run_processes.assert_same(workdir, teacher)


def test_students_of_every_regime_end_with_the_same_bits_by_either_feed(folder, students):
  whole, flags = students
  workdir = folder / 'killed_students'
  stop_and_finish(workdir, workdir / next(iter(STUDENTS)), signal.SIGINT, flags)
  for name in STUDENTS:
    run_processes.assert_same(workdir / name, whole / name)


@pytest.mark.parametrize('which', ['teacher', 'students'])
def test_signals_at_random_times(folder, teacher, students, kills, which):
  if kills <= 2:
    pytest.skip('long: pytest --kills=3')
  workdir, (whole, flags) = folder / f'random_{which}', students if which == 'students' else (teacher, ())

  def check():
    for name in STUDENTS if which == 'students' else ('',):
      run_processes.assert_same(workdir / name, whole / name)

  seconds = run_processes.seconds_of(folder / f'again_{which}', *flags)
  print(which, run_processes.interrupt(workdir, seconds, kills, kills, check, flags, (*flags, STREAM)))
