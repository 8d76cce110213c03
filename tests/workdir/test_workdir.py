"""What training makes of a workdir that is damaged, of another run, or in use: one line, and nothing in it is lost."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moonshine_jax.errors import UserError
from moonshine_jax.training import loop
from moonshine_jax.training import step as step_lib
from moonshine_jax.workdir import metrics
from moonshine_jax.workdir.workdir import Workdir
from tests.helpers import run_processes

pytestmark = pytest.mark.usefixtures('small_runs')


def rewrite(path, old, new):
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new))


def damage(workdir, step):
  for path in (workdir / 'checkpoints' / str(step) / 'variables').rglob('d/*'):
    path.write_bytes(path.read_bytes()[:10])


def replace_by_a_file(path):
  shutil.rmtree(path)
  path.write_text('')


DAMAGES = {
  'a torn config': (lambda run: rewrite(run / 'config.json', '"seed"', '"se'), '@/config.json: damaged'),
  'an empty config': (lambda run: (run / 'config.json').write_text(''), '@/config.json: damaged'),
  'a config without a field': (
    lambda run: rewrite(run / 'config.json', '"epochs": 2,', ''),
    '@/config.json: damaged .config.epochs: missing',
  ),
  'a damaged record': (lambda run: rewrite(run / 'metrics.jsonl', '"epoch": 2', '"epo'), '@/metrics.jsonl, line 2: '),
  'no records': (lambda run: (run / 'metrics.jsonl').unlink(), '@/metrics.jsonl: expected a record of each epoch'),
  'no good checkpoint': (lambda run: [damage(run, step) for step in (2, 4)], '@/checkpoints/2: damaged .*no good '),
  'checkpoints of another config': (
    lambda run: rewrite(run / 'config.json', '"seed": 0', '"seed": 1'),
    '@/checkpoints/4: a checkpoint of another',
  ),
  'a file for checkpoints': (lambda run: replace_by_a_file(run / 'checkpoints'), '@/checkpoints: cannot be written'),
  'a file for a workdir': (replace_by_a_file, '@: cannot be written: File exists'),
}


@pytest.mark.parametrize('name', DAMAGES)
def test_a_damaged_workdir_is_one_line_and_stays_as_it_is(config, teacher, monkeypatch, name):
  workdir, (spoil, message) = Path(teacher[0]), DAMAGES[name]
  spoil(workdir)
  if name == 'checkpoints of another config':
    config.seed = config.model.seed = 1
  monkeypatch.setattr(step_lib, 'make_train_loop', lambda *_: pytest.fail('work was begun'))
  before = {path: path.read_bytes() for path in workdir.glob('checkpoints/**/*') if path.is_file()}
  with pytest.raises(UserError, match=message.replace('@', str(workdir))):
    loop.train_and_evaluate(config, workdir)
  assert {path: path.read_bytes() for path in workdir.glob('checkpoints/**/*') if path.is_file()} == before


def test_a_run_goes_back_from_a_damaged_checkpoint(config, teacher, tmp_path, capsys):
  workdir = shutil.copytree(teacher[0], tmp_path / 'damaged')
  damage(workdir, 4)
  loop.train_and_evaluate(config, workdir)
  assert f'warning: {workdir}/checkpoints/4: damaged (' in capsys.readouterr().err
  run_processes.assert_same(workdir, Path(teacher[0]))
  assert len(metrics.read(workdir)) == 2


def test_a_run_beside_another_in_its_workdir_is_refused(config, teacher):
  with Workdir(teacher[0]).lock(), pytest.raises(UserError, match=f'^{teacher[0]}: another run is training in it'):
    loop.train_and_evaluate(config, teacher[0])


def test_a_run_without_a_checkpoint_yet_says_that_it_begins_anew(config, teacher, capsys, monkeypatch):
  shutil.rmtree(Path(teacher[0]) / 'checkpoints')
  monkeypatch.setattr(step_lib, 'make_train_loop', lambda *_: pytest.fail('far enough'))
  with pytest.raises(pytest.fail.Exception, match='far enough'):
    loop.train_and_evaluate(config, teacher[0])
  assert capsys.readouterr().err == (
    f'warning: {teacher[0]}: no checkpoint yet of the run that was begun here: it begins anew\n'
  )


def test_a_workdir_is_for_one_process_at_a_time(tmp_path):
  program = (
    'import sys\n'
    'from moonshine_jax.workdir.workdir import Workdir\n'
    'with Workdir(sys.argv[1]).lock():\n'
    '  print(flush=True)\n'
    '  sys.stdin.read()\n'
  )
  workdir = tmp_path / 'run'
  with subprocess.Popen(
    [sys.executable, '-c', program, str(workdir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
  ) as other:
    other.stdout.readline()
    with pytest.raises(UserError, match=f'^{workdir}: another run is training in it'), Workdir(workdir).lock():
      pytest.fail('both have it')
    other.kill()  # the lock goes with its process
    other.wait()
    with Workdir(workdir).lock():
      pass


def test_a_lock_is_given_back_by_an_error(tmp_path):
  for _ in range(2):
    with pytest.raises(ZeroDivisionError), Workdir(tmp_path).lock():
      raise ZeroDivisionError


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch, capsys):
  def refuse(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

  monkeypatch.setattr(fcntl, 'flock', refuse)
  with Workdir(tmp_path).lock():
    assert capsys.readouterr().err.startswith(f'warning: {tmp_path}: cannot be locked (No locks available): ')


@pytest.mark.skipif(os.geteuid() == 0, reason='nothing is read-only for root')
def test_a_read_only_workdir_is_named(tmp_path):
  tmp_path.chmod(0o500)
  with pytest.raises(UserError, match='run: cannot be written: Permission denied'), Workdir(tmp_path / 'run').lock():
    pass
