import importlib.util
import json
import os
import py_compile
import subprocess
import sys

import pytest

from moonshine_jax.errors import UserError
from moonshine_jax.runtime import user_functions
from tests.helpers import user


def test_what_is_a_name():
  assert all(map(user_functions.is_name, ['a:b', 'a.b:c', '/tmp/a-b.py:c.d']))
  for text in ('wide_resnet', 'cifar10', 'mnist:3.0.1', 'mnist:3.*.*', 'a:', ':b', 'a:b c', ''):
    assert not user_functions.is_name(text)


def test_functions_of_modules_and_files(tmp_path):
  assert user_functions.load('tests.helpers.user:with_norm') is user.with_norm
  assert user_functions.load('tests.helpers.user:Convnet') is user.Convnet
  path = tmp_path / 'json.py'  # of a name that is taken
  path.write_text('import sys\nsys.times = getattr(sys, "times", 0) + 1\ndef one(): return 1\nclass A:\n  two = int\n')
  assert user_functions.load(f'{path}:one')() == 1 and user_functions.load(f'{path}:A.two') is int
  assert sys.times == 1 and sys.modules['json'] is json


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('tests.none:f', "'tests.none:f': importing tests.none raises ModuleNotFoundError: .*expected a module"),
    (
      'tests.helpers.user:Convent',
      "'tests.helpers.user:Convent': no Convent in tests.helpers.user: expected one of .*Convnet",
    ),
    (
      'tests.helpers.user:NOT_A_FUNCTION',
      "'tests.helpers.user:NOT_A_FUNCTION': a int: expected a function",
    ),
    ('@/none.py:f', "'@/none.py:f': no file @/none.py: expected one, by its path"),
    ('@/raises.py:f', "'@/raises.py:f': running @/raises.py raises ZeroDivisionError: .*: expected a file that runs"),
    (
      '@/trains.py:f',
      "'@/trains.py:f': @/trains.py calls distil whenever it is read, .*: expected the call, .*, under if",
    ),
    (
      'trains:f',
      "'trains:f': trains calls distil whenever it is read, as to find its network again: expected the call, ",
    ),
  ],
)
def test_functions_that_are_not_there(name, message, tmp_path, monkeypatch):
  (tmp_path / 'raises.py').write_text('1 / 0')
  (tmp_path / 'trains.py').write_text('import moonshine_jax\nmoonshine_jax.distil(print, {}, print, "S", "out")')
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(UserError, match='^' + message.replace('@', str(tmp_path))):
    user_functions.load(name.replace('@', str(tmp_path)))


def test_a_file_may_be_a_link_to_one_of_another_ending(tmp_path):
  (tmp_path / '5f3a').write_text('def f(): return 1\n')  # as stores of data by their checksums name them
  (tmp_path / 'link.py').symlink_to(tmp_path / '5f3a')
  assert user_functions.load(f'{tmp_path}/link.py:f')() == 1


def test_bytecode_beside_a_file_does_not_run(tmp_path):
  path, other = tmp_path / 'file.py', tmp_path / 'other.py'
  path.write_text('def f(): return 1\n')
  other.write_text('def f(): return 2\n')
  os.utime(path, (0, 0))
  os.utime(other, (0, 0))
  py_compile.compile(str(other), importlib.util.cache_from_source(str(path)))
  assert user_functions.load(f'{path}:f')() == 1


def test_names_of_functions():
  assert user_functions.name_of('any:name') == 'any:name'
  assert user_functions.name_of(user.images) == 'tests.helpers.user:images'
  for function in (lambda: 1, user.Convnet(3).apply):
    with pytest.raises(UserError, match='expected a function that can be found again by its name'):
      user_functions.name_of(function)


def test_a_script_names_its_functions_and_is_not_run_twice(tmp_path):
  script = tmp_path / 'script.py'
  script.write_text(
    'from moonshine_jax.runtime import user_functions\nprint("run")\ndef f(): pass\n'
    'name = user_functions.name_of(f)\nprint(name, user_functions.load(name) is f)\n'
  )
  command = subprocess.run(
    [sys.executable, str(script)], capture_output=True, text=True, env={'PYTHONPATH': '.'}, check=False
  )
  assert command.stdout == f'run\n{script}:f True\n', command.stderr
  command = subprocess.run([sys.executable, '-c', script.read_text()], capture_output=True, text=True, check=False)
  assert 'expected a function that can be found again by its name' in command.stderr  # as in a notebook
