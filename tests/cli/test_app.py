"""The commands: what they say of themselves, and how they end."""

import errno
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl.flags import FlagValues

import moonshine_jax
from moonshine_jax.cli import app
from moonshine_jax.cli.command import COMMANDS
from moonshine_jax.configs import digits

COMMAND = """
import sys, types
from moonshine_jax.cli import app
from moonshine_jax.cli.command import COMMANDS, Command
sys.modules['lines'] = types.SimpleNamespace(main=lambda values: {})
COMMANDS['lines'] = Command('lines', 'lines', (), (), lambda values: None)
COMMANDS['lines'].define_flags.__doc__ = 'Prints lines.'
app.run('lines')
"""


@pytest.mark.parametrize(
  ('code', 'flags'),
  [
    ('print("a line")', []),  # written at the end
    ('[print("many lines") for _ in range(10**5)]', []),  # while it runs
    ('print("a line")', ['--help']),
  ],
)
def test_output_that_nobody_reads_ends_a_command_without_a_word(code, flags):
  reader, writer = os.pipe()
  os.close(reader)
  process = subprocess.run([sys.executable, '-c', COMMAND.format(code), *flags], stdout=writer, stderr=subprocess.PIPE)
  os.close(writer)
  assert (process.returncode, process.stderr) == (128 + 13, b'')


def test_other_pipes_that_break_are_errors():
  code = '(print("a line"), os.write(writer, b"x"))'
  setup = 'import os; reader, writer = os.pipe(); os.close(reader); '
  process = subprocess.run([sys.executable, '-c', setup + COMMAND.format(code)], capture_output=True, text=True)
  assert process.returncode == 1 and process.stdout == 'a line\n' and 'BrokenPipeError' in process.stderr


def moonshine(monkeypatch, capsys, *arguments):
  """The exit status, the output and the errors of a command in this process."""
  monkeypatch.setattr(sys, 'argv', ['moonshine', *arguments])
  try:
    app.main()
    status = 0
  except SystemExit as exit:
    status = exit.code
  return status, *capsys.readouterr()


def test_help_has_a_line_for_each_command(monkeypatch, capsys):
  status, output, errors = moonshine(monkeypatch, capsys, '--help')
  assert (status, errors) == (0, '') and moonshine(monkeypatch, capsys) == (0, output, '')
  lines = [line for line in output.splitlines() if line.startswith('  ')]
  names = ['train', 'data', 'evaluate', 'report', 'attention', 'cost', 'export', 'import-torch', 'sweep', 'search']
  for line, name in zip(lines, [*names, 'zoo', 'zoo add'], strict=True):
    assert line.startswith(f'  {name}  ') and line.endswith('.')


@pytest.mark.parametrize('command', COMMANDS.values(), ids=lambda command: command.name)
def test_help_of_a_command_has_its_flags_alone_and_an_example(monkeypatch, capsys, command):
  status, output, errors = moonshine(monkeypatch, capsys, *command.name.split(), '--help')
  assert (status, errors) == (0, '') and output.startswith(f'Usage: moonshine {command.name} ')
  assert command.summary in output and f'    moonshine {command.name} ' in output
  flags = {line.split(':')[0].strip() for line in output.splitlines() if line.startswith('  --')}
  values = FlagValues()
  command.define_flags(values)
  assert flags == {f'--{name}' for name in values if values[name].name == name}
  assert importlib.util.find_spec(command.module)


def test_help_comes_without_jax():
  code = "import sys; from moonshine_jax.cli import app; app.run('sweep', ['--help']); sys.exit('jax' in sys.modules)"
  assert subprocess.run([sys.executable, '-c', code], stdout=subprocess.DEVNULL).returncode == 0


def test_the_version_is_that_of_the_package(monkeypatch, capsys):
  assert moonshine(monkeypatch, capsys, '--version') == (0, f'{moonshine_jax.__version__}\n', '')


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['trian'], "'trian' is no command of moonshine: did you mean train?"),
    (['evaluate', '--workdr=x'], "Unknown command line flag 'workdr'. Did you mean: workdir ?"),
    (['evaluate', '--blocks=S'], "Unknown command line flag 'blocks'"),  # of another command
    (
      ['train', '--config=digts', '--workdir=x'],
      '--config=digts: no such config: expected a path, or one of cifar10, ',
    ),
    (['train', '--config=digits'], '--workdir is missing'),
    (['zoo', 'add'], 'the argument WORKDIR is missing'),
    (['zoo', 'ad'], "unexpected argument 'ad'"),
  ],
)
def test_a_mistake_is_one_line(monkeypatch, capsys, arguments, message):
  status, output, errors = moonshine(monkeypatch, capsys, *arguments)
  assert (status, output) == (2, '') and errors.startswith(f'error: {message}') and errors.count('\n') == 1


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    (
      'from configs import digits',
      ', line 1: ModuleNotFoundError: import of configs halted; None in sys.modules: moonshine_jax.configs is found',
    ),
    ('def get_config():\n  return {}["a"]', ", line 2: KeyError: 'a'"),
    ('def get_config():\n  return int("x")', ", line 2: ValueError: invalid literal for int() with base 10: 'x'"),
    ('def get_config(:', ', line 1: not Python: '),
    ('x = 1', ": AttributeError: module 'config_config' has no attribute 'get_config'"),
    ('def get_config(size):\n  return size', ': TypeError: get_config() missing 1 required positional argument'),
  ],
)
def test_the_line_of_a_config_that_fails_is_told(monkeypatch, capsys, tmp_path, text, message):
  path = tmp_path / 'mine.py'
  path.write_text(text)
  monkeypatch.delitem(sys.modules, 'config_config', raising=False)  # the config of another test
  monkeypatch.setitem(sys.modules, 'configs', None)  # as where the top of the clone is not on Python's path
  status, output, errors = moonshine(monkeypatch, capsys, 'train', f'--config={path}', '--workdir=none')
  assert (status, output) == (2, '') and errors.startswith(f'error: --config: {path}{message}')
  assert errors.count('\n') == 1


def test_a_workdir_that_may_not_be_read_is_one_line(monkeypatch, capsys, tmp_path):
  monkeypatch.setattr(Path, 'is_dir', lambda path: os.listdir(path) and True)
  monkeypatch.setattr(os, 'listdir', refuse)  # as for another user's folder; root may read any
  status, out, err = moonshine(monkeypatch, capsys, 'evaluate', f'--workdir={tmp_path}')
  assert (status, out, err) == (2, '', f'error: {tmp_path}: Permission denied: expected what this user may read\n')


def refuse(path):
  raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def test_a_config_is_found_by_its_name_unless_there_is_such_a_file(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  assert app.config_path('digits').read_text() == Path(digits.__file__).read_text()
  assert app.with_config_path(['--config=digits', '--x=digits', '--config.model.block=S']) == [
    f'--config={app.config_path("digits")}',
    '--x=digits',
    '--config.model.block=S',
  ]
  assert app.with_config_path(['--config', 'digits', 'digits']) == [
    '--config',
    str(app.config_path('digits')),
    'digits',
  ]
  (tmp_path / 'digits').write_text('')
  assert app.with_config_path(['--config=digits']) == ['--config=digits']


@pytest.mark.parametrize(('options', 'warning'), [(['-W', 'error'], ''), ([], 'warning: odd thing\n')])
def test_warnings_of_python_are_lines_and_may_be_errors(tmp_path, options, warning):
  """`load_module`, by which ml_collections loads a config, warns in each Python since 3.4."""
  config = tmp_path / 'config.py'
  text = f'import warnings\nif {not options}: warnings.warn("odd\\nthing")\n'
  config.write_text(f'{text}from moonshine_jax.configs.digits import get_config\n')
  command = [sys.executable, *options, '-m', 'moonshine_jax.main', f'--config={config}']
  process = subprocess.run(command, capture_output=True, text=True)
  assert process.stderr == f'{warning}error: --workdir is missing\n'
