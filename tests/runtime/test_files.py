import errno
import os

import pytest

from moonshine_jax.errors import UserError
from moonshine_jax.runtime import files


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / 'file'
  files.write_atomically(path, 'old')

  def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(files.os, 'fsync', full)
  with pytest.raises(UserError, match=f'^{path}: cannot be written: No space left on device$'):
    files.write_atomically(path, 'new')
  assert path.read_text() == 'old'
