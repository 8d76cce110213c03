"""Runs that are killed, again and again, end as runs that never were. `pytest --kills=100` for the long version."""

import pytest

from tests.helpers import run_processes

STUDENTS = {  # of every regime with a teacher, by the folder of each
  'block-S-2x2-alpha-0': 'block=S-2x2 alpha=0',
  'block-S-2x2-beta-0-seed-1': 'block=S-2x2 beta=0 seed=1',
  'block-S-2x2-seed-2': 'block=S-2x2 seed=2',
}
STREAM = '--config.data.feed=stream'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """For workdirs: those in one folder share their compiled steps."""
  return tmp_path_factory.mktemp('runs')


@pytest.fixture(scope='module')
def teacher(folder):
  """A run that is left alone, and the seconds that it takes once it is compiled."""
  assert run_processes.finish(folder / 'teacher') == 0, (folder / 'teacher.err').read_text()
  return folder / 'teacher', run_processes.seconds_of(folder / 'again')


def test_a_teacher_ends_with_the_same_bits_by_either_feed(folder, teacher, kills):
  workdir, seconds = teacher
  run_processes.assert_same(folder / 'again', workdir)
  print(
    'teacher',
    run_processes.interrupt(
      folder / 'killed',
      seconds,
      kills,
      kills,
      lambda: run_processes.assert_same(folder / 'killed', workdir),
      (),
      (STREAM,),
    ),
  )


def test_students_of_every_regime_end_with_the_same_bits_by_either_feed(folder, teacher, kills):
  flags = (f'--config.distill.students={tuple(STUDENTS.values())}', f'--config.distill.teacher={teacher[0]}')
  assert run_processes.finish(folder / 'students', *flags) == 0, (folder / 'students.err').read_text()

  def check():
    for name in STUDENTS:
      run_processes.assert_same(folder / 'killed_students' / name, folder / 'students' / name)

  print(
    'students',
    run_processes.interrupt(folder / 'killed_students', teacher[1], kills, kills + 1, check, flags, (*flags, STREAM)),
  )
