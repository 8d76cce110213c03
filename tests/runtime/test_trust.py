"""What a file on the disk names runs only where the user has named it before; nothing is run to find that out."""

import hashlib
import importlib
import sys

import pytest

from moonshine_jax.errors import UserError
from moonshine_jax.runtime import trust, user_functions


@pytest.fixture
def code(tmp_path, monkeypatch):
  """A file that must not run, outside of the folder that is read, and its function's name."""
  monkeypatch.setenv('XDG_STATE_HOME', str(tmp_path / 'state'))
  (tmp_path / 'received').mkdir()
  path = tmp_path / 'code.py'
  path.write_text('raise SystemExit("it ran")\n')
  return path, f'{path}:f'


def check(name, tmp_path, recorded=None, trust_code=False):
  recorded = {name: trust.checksum(name)} if recorded is None else recorded
  trust.check_function(name, recorded, tmp_path / 'received', trust_code)


def refused(name, tmp_path, reason, **kwargs):
  with pytest.raises(UserError, match=f'^{name!r}: not run: {reason}: expected --trust_code .* trust its author$'):
    check(name, tmp_path, **kwargs)
  check(name, tmp_path, **kwargs, trust_code=True)


def test_a_file_that_was_named_and_recorded_and_is_as_it_was(code, tmp_path):
  trust.remember(code[1])
  check(code[1], tmp_path)


def test_a_file_that_was_never_recorded(code, tmp_path):
  trust.remember(code[1])
  refused(code[1], tmp_path, f'{code[0]} was not recorded in {tmp_path}/received', recorded={})
  refused(
    code[1], tmp_path, f'{code[0]} was not recorded in .*', recorded={f'{code[0]}:other': trust.checksum(code[1])}
  )


def test_a_file_that_has_changed(code, tmp_path):
  trust.remember(code[1])
  recorded = {code[1]: trust.checksum(code[1])}
  code[0].write_text('raise SystemExit("it ran, too")\n')
  trust.remember(code[1])
  refused(code[1], tmp_path, f'{code[0]} is not what was recorded in .* when the run began', recorded=recorded)


def test_a_record_that_somebody_else_wrote(code, tmp_path):
  reason = f'{code[0]} is none that you named to a run on this machine'
  with pytest.raises(UserError, match=reason):
    check(code[1], tmp_path)
  trust.remember(f'{code[0]}:other')  # another function of the file
  with pytest.raises(UserError, match=reason):
    check(code[1], tmp_path)
  trust.remember(code[1])
  (tmp_path / 'copy').mkdir()
  copy = tmp_path / 'copy' / 'code.py'  # which may read and import what lies beside it
  copy.write_bytes(code[0].read_bytes())
  refused(f'{copy}:f', tmp_path, f'{copy} is none that you named to a run on this machine')


def test_a_file_in_the_folder_that_is_read(code, tmp_path):
  inside = tmp_path / 'received' / 'code.py'
  inside.write_bytes(code[0].read_bytes())
  out, into = tmp_path / 'received' / 'out.py', tmp_path / 'into.py'
  out.symlink_to(code[0])
  into.symlink_to(inside)
  for path in (inside, out, into):
    trust.remember(f'{path}:f')
    refused(f'{path}:f', tmp_path, f'{path} lies in {tmp_path}/received, which is read')


def test_what_the_process_has_loaded_already_was_named(tmp_path, monkeypatch):
  monkeypatch.setattr(user_functions, '_loaded', {})
  path = tmp_path / 'named.py'
  path.write_text('def f(): pass\ndef g(): pass\n')
  user_functions.load(f'{path}:f')
  trust.check_function(f'{path}:f', {}, tmp_path, trust_code=False)
  with pytest.raises(UserError, match='lies in'):
    trust.check_function(f'{path}:g', {}, tmp_path, trust_code=False)


def test_a_module_is_found_without_running_its_packages(code, tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(tmp_path)
  package = tmp_path / 'space_14' / 'package'  # a namespace, and in it a package and a namespace
  (package / 'inner').mkdir(parents=True)
  texts = {package / '__init__.py': b'raise SystemExit("it ran")', package / 'inner' / 'module.py': b'def f(): pass\n'}
  for path, text in texts.items():
    path.write_bytes(text)
  importlib.invalidate_caches()
  name = 'space_14.package.inner.module:f'
  assert trust.source_files(name) == list(texts)
  assert trust.checksum(name) == hashlib.sha256(b''.join(texts.values())).hexdigest()
  assert trust.checksum(code[1]) == hashlib.sha256(code[0].read_bytes()).hexdigest()
  assert not [module for module in sys.modules if module.startswith('space_14')]
  trust.remember(name)
  check(name, tmp_path)
  (package / '__init__.py').write_bytes(b'raise SystemExit("it ran again")')
  refused(name, tmp_path, f'{package}/inner/module.py is none that you named to a run on this machine')


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('sys:exit', "^'sys:exit': sys is a part of Python: expected a module with a file$"),
    ('no.such:f', "^'no.such:f': no module no.such: expected one that Python finds from here, or path/file.py$"),
    ('json.none:f', "^'json.none:f': no module json.none: "),
    ('none.py:f', r"^'none.py:f': no file .*/none.py: expected one, by its path"),
  ],
)
def test_functions_without_a_file(name, message, tmp_path):
  for trust_code in (False, True):
    with pytest.raises(UserError, match=message):
      check(name, tmp_path, {}, trust_code)


def test_a_place_for_what_was_named_that_cannot_be_written(code, tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_STATE_HOME', str(code[0]))
  with pytest.raises(UserError, match=f'^{code[0]}/moonshine_jax/code/.*: cannot be written: Not a directory$'):
    trust.remember(code[1])
  refused(code[1], tmp_path, f'{code[0]} is none that you named to a run on this machine')
