import errno
import os
import subprocess
import sys

import pytest

from moonshine_jax.errors import UserError
from moonshine_jax.runtime import files


def test_a_workdir_is_for_one_process_at_a_time(tmp_path):
  program = (
    'import sys\n'
    'from moonshine_jax import files\n'
    'with files.lock(sys.argv[1]):\n'
    '  print(flush=True)\n'
    '  sys.stdin.read()\n'
  )
  workdir = tmp_path / 'run'
  with subprocess.Popen(
    [sys.executable, '-c', program, str(workdir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
  ) as other:
    other.stdout.readline()
    with pytest.raises(UserError, match=f'^{workdir}: another run is training in it'), files.lock(workdir):
      pytest.fail('both have it')
    other.kill()  # the lock goes with its process
    other.wait()
    with files.lock(workdir):
      pass


def test_a_lock_is_given_back_by_an_error(tmp_path):
  for _ in range(2):
    with pytest.raises(ZeroDivisionError), files.lock(tmp_path):
      raise ZeroDivisionError


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch, capsys):
  def refuse(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

  monkeypatch.setattr(files.fcntl, 'flock', refuse)
  with files.lock(tmp_path):
    assert capsys.readouterr().err.startswith(f'warning: {tmp_path}: cannot be locked (No locks available): ')


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / 'file'
  files.write_atomically(path, 'old')

  def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(files.os, 'fsync', full)
  with pytest.raises(UserError, match=f'^{path}: cannot be written: No space left on device$'):
    files.write_atomically(path, 'new')
  assert path.read_text() == 'old'


@pytest.mark.skipif(os.geteuid() == 0, reason='nothing is read-only for root')
def test_a_read_only_workdir_is_named(tmp_path):
  tmp_path.chmod(0o500)
  with pytest.raises(UserError, match='run: cannot be written: Permission denied'), files.lock(tmp_path / 'run'):
    pass
