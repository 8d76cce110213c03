"""What training makes of a workdir that is damaged, of another run, or in use: one line, and nothing in it is lost."""

import errno
import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moonshine_jax import config as config_lib
from moonshine_jax.data import sources
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError
from moonshine_jax.training import loop
from moonshine_jax.training import step as step_lib
from moonshine_jax.workdir import metrics
from moonshine_jax.workdir.metrics import Writer
from moonshine_jax.workdir.trained import Trained
from moonshine_jax.workdir.workdir import Workdir
from tests.helpers import run_processes, saved_networks

FACTS = Facts((8, 8, 3), 3, (0.0,) * 3, (1.0,) * 3)

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


NAMES = {
  'a*b': "expected a path without '*'",
  'a?b': "expected a path without '?'",
  'a[b': "expected a path without '['",
  'a\\b': r"expected a path without '\\'",
  'a\0b': r"expected a path without '\x00'",
  'gs:': "expected a path without 'gs:'",
  '/tmp/gs:/run': "'/tmp/gs:/run': no checkpoint can be kept there: expected a path without 'gs:'",
  'bad\udcff': "bad\\udcff': no checkpoint can be kept there: expected a path in UTF-8",
  'gs://bucket/run': 'gs://bucket/run: expected a path on a disk: mount the bucket, as with gcsfuse (launch/README.md)',
  's3://bucket/run': 's3://bucket/run: expected a path on a disk: mount the bucket',
  '~/run': '~/run: ~ is not expanded here: expected $HOME in its place, or the whole path',
}


@pytest.mark.parametrize('name', NAMES)
def test_a_name_at_which_no_run_can_be_kept_is_refused_before_data_is_read(config, tmp_path, monkeypatch, name):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sources, 'measure_facts', lambda *_: pytest.fail('data was read'))
  for use in (lambda: loop.train_and_evaluate(config, name), lambda: Trained.open(name)):
    with pytest.raises(UserError, match=re.escape(NAMES[name])):
      use()
  assert not list(tmp_path.iterdir())


def test_a_name_that_holds_what_is_odd_keeps_a_run(config, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ('-x', ' a\n]#%41{}', '~a', 'gs:x', '\U0001f600' * 63):
    saved_networks.save_network(Workdir(name), config, FACTS)
    assert Trained.open(name).step == 1
    Writer(name, 0).close()
  assert not (tmp_path / 'checkpoints').exists()


@pytest.mark.parametrize('name', ['checkpoints', 'tensorboard', '.lock'])
def test_a_run_writes_through_no_link_that_leaves_its_workdir(tmp_path, name):
  outside, workdir = tmp_path / 'outside', tmp_path / 'run'
  outside.mkdir()
  workdir.mkdir()
  target = outside / 'file' if name == '.lock' else outside
  (workdir / name).symlink_to(target)
  refusal = f'^{workdir}.*: cannot be written: (it is a link|a link leads to {target}, out)'
  with pytest.raises(UserError, match=refusal), Workdir(workdir).lock():
    Workdir(workdir).checkpoints(create=True)
    Writer(workdir, 0)
  assert not list(outside.iterdir())


def test_a_checkpoint_that_is_a_link_is_not_deleted_through_it(tmp_path):
  outside, workdir = tmp_path / 'outside', tmp_path / 'run'
  outside.mkdir()
  (workdir / 'checkpoints').mkdir(parents=True)
  (workdir / 'checkpoints' / '7').symlink_to(outside)
  with pytest.raises(
    UserError, match=f'^{workdir}/checkpoints/7: cannot be written: a link leads to {outside}, out of'
  ):
    Workdir(workdir).checkpoints(create=True)
  assert outside.is_dir()


def test_records_replace_a_link_and_are_appended_to_none(tmp_path):
  elsewhere, workdir = tmp_path / 'elsewhere', tmp_path / 'run'
  elsewhere.write_text('{"epoch": 9, "step": 9}\n')
  workdir.mkdir()
  for name in ('metrics.jsonl', 'environment.jsonl', 'config.json'):
    (workdir / name).symlink_to(elsewhere)
  writer = Writer(workdir, 0)
  writer.write({'epoch': 1, 'step': 1})
  writer.close()
  Workdir(workdir).write_config(config_lib.create_config())
  assert metrics.read(workdir) == [{'epoch': 1, 'step': 1}]
  assert elsewhere.read_text() == '{"epoch": 9, "step": 9}\n'


@pytest.mark.parametrize('part', ['seed-2-alpha-0', 'seed-1-alpha-0/ema'])
def test_a_student_in_a_link_that_leaves_the_workdir_is_refused(config, tmp_path, part):
  config.distill.students = ('seed=1 alpha=0', 'seed=2 alpha=0')
  link = tmp_path / 'run' / part
  link.parent.mkdir(parents=True)
  link.symlink_to(tmp_path)
  with pytest.raises(UserError, match=f'^{link}: cannot be written: a link leads to .*, out of .*/run$'):
    loop.train_and_evaluate(config, tmp_path / 'run')
