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
  assert [each.name for each in tmp_path.iterdir()] == ['file']


def test_a_file_is_written_beside_what_was_put_there_for_it(tmp_path):
  """Links by the file's own name, and by the names that a partial file might have."""
  elsewhere = tmp_path / 'elsewhere'
  elsewhere.write_text('old')
  folder = tmp_path / 'folder'
  folder.mkdir()
  for name in ('file', 'file.tmp', '.file.tmp'):
    (folder / name).symlink_to(elsewhere)
  files.write_atomically(folder / 'file', 'new')
  assert elsewhere.read_text() == 'old'
  assert (folder / 'file').read_text() == 'new' and not (folder / 'file').is_symlink()
  assert sorted(path.name for path in folder.iterdir()) == ['.file.tmp', 'file', 'file.tmp']


def test_a_file_has_the_permissions_that_the_user_sets(tmp_path):
  umask = os.umask(0o027)
  try:
    files.write_atomically(tmp_path / 'file', '')
    files.append_record(tmp_path / 'records', {})
  finally:
    os.umask(umask)
  assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


def test_a_name_as_long_as_names_may_be(tmp_path):
  files.write_atomically(tmp_path / ('x' * 255), 'text')
  assert (tmp_path / ('x' * 255)).read_text() == 'text'
  with pytest.raises(UserError, match='cannot be written: File name too long$'):
    files.write_atomically(tmp_path / ('x' * 256), 'text')


def test_a_record_is_appended_to_no_link_and_no_pipe(tmp_path):
  elsewhere = tmp_path / 'elsewhere'
  (tmp_path / 'link').symlink_to(elsewhere)
  with pytest.raises(UserError, match=f'^{tmp_path}/link: cannot be written: it is a link$'):
    files.append_record(tmp_path / 'link', {})
  os.mkfifo(tmp_path / 'pipe')
  with pytest.raises(UserError, match=f'^{tmp_path}/pipe: cannot be written: No such device or address$'):
    files.append_record(tmp_path / 'pipe', {})
  assert not elsewhere.exists()


def test_a_folder_is_made_behind_no_link_that_leaves_the_folder_around_it(tmp_path):
  around, outside = tmp_path / 'around', tmp_path / 'outside'
  (around / 'disk').mkdir(parents=True)
  outside.mkdir()
  files.make_folder(around / 'new', inside=around)
  (around / 'inside').symlink_to(around / 'disk')
  files.make_folder(around / 'inside', inside=around)
  (tmp_path / 'other name').symlink_to(around)
  files.make_folder(tmp_path / 'other name' / 'more', inside=tmp_path / 'other name')
  assert (around / 'new').is_dir() and (around / 'more').is_dir()

  (around / 'out').symlink_to(outside)
  (around / 'dangling').symlink_to(outside / 'none')
  for path, target in (('out', ''), ('out/deeper', '/deeper'), ('dangling', '/none')):
    with pytest.raises(UserError, match=f'^{around}/{path}: .*a link leads to {outside}{target}, out of {around}$'):
      files.make_folder(around / path, inside=around)
  assert not list(outside.iterdir())
