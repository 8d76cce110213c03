"""Runs the commands: `moonshine COMMAND`; parses their flags, and tells how they end.

Exit statuses: 0; 2 for a user's mistake, told in one line; 75 for a run that was preempted and can go on; 128 and the
signal's number for an interrupt, or where nobody reads the output.
"""

import difflib
import errno
import faulthandler
import importlib
import os
import re
import select
import signal
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags
from absl.flags import FlagValues

import moonshine_jax
from moonshine_jax.cli import commands, search_command, zoo_command  # noqa: F401 - they fill COMMANDS
from moonshine_jax.cli.command import COMMANDS, Command
from moonshine_jax.errors import MISTAKE, RESUME_ME, Preempted, UserError, printable, tell, warn

CONFIGS = Path(moonshine_jax.__file__).parent / 'configs'
HELP = {'--help', '-help', '-h', '--helpfull', '--helpshort'}


def main() -> None:
  """Runs the command that the arguments of the process name."""
  name, arguments = split_command(sys.argv[1:] or ['--help'])
  if name in HELP | {'help'}:
    _guard(lambda: print(_overview()))
  elif name == '--version':
    _guard(lambda: print(moonshine_jax.__version__))
  elif name in COMMANDS:
    run(name, arguments)
  else:
    nearest = difflib.get_close_matches(name, COMMANDS, 1, 0)
    tell(f'{name!r} is no command of moonshine: did you mean {nearest[0]}? All of them: moonshine --help')
    sys.exit(MISTAKE)


def split_command(words: Sequence[str]) -> tuple[str, list[str]]:
  """Returns the name of a command, which is of one word or of two, and its flags and arguments."""
  length = 2 if ' '.join(words[:2]) in COMMANDS else 1
  return ' '.join(words[:length]), list(words[length:])


def run(name: str, arguments: Sequence[str] | None = None) -> None:
  """Runs a command; a user's mistake becomes one line on stderr and exit status 2.

  Args:
    name: of the command, in COMMANDS.
    arguments: its flags and arguments; by default those of the process.
  """
  command = COMMANDS[name]
  arguments = sys.argv[1:] if arguments is None else list(arguments)
  if HELP.intersection(arguments):
    _guard(lambda: print(_help(command)))
    return
  warnings.showwarning = lambda message, *_: warn(str(message))  # a library's, in a line without its source
  if sys.__stderr__:
    faulthandler.enable(sys.__stderr__)  # where XLA crashes, the stack
  _guard(lambda: _run(command, arguments))


def _run(command: Command, arguments: list[str]) -> None:
  _import_jax()
  values, rest = _parse(command, arguments)
  importlib.import_module(command.module).main(values, *rest)


def _import_jax() -> None:
  """Imports JAX, which reads its environment variables. Raises UserError for a value that it refuses."""
  try:
    importlib.import_module('jax')
  except ValueError as error:
    named = {name: value for name, value in os.environ.items() if name.startswith('JAX_')}
    blamed = {
      name: value for name, value in named.items() if name.lower() in str(error).lower() or repr(value) in str(error)
    } or named
    raise UserError(
      f'{" ".join(f"{name}={value}" for name, value in blamed.items())}: JAX refuses the environment ({error}): '
      "expected a value as in JAX's documentation, or none"
    ) from error


def _guard(function: Callable[[], None]) -> None:
  """Calls a function; what it raises ends the process, with the exit status that stands for it."""
  try:
    try:
      try:
        function()
      except (RuntimeError, AssertionError) as error:  # as of any first use of a device where JAX finds none
        importlib.import_module('moonshine_jax.runtime.devices').local_devices()
        if advice := importlib.import_module('moonshine_jax.runtime.gpu').advice_for(error):
          error.add_note(advice)
        raise
    except UserError as error:
      tell(str(error))
      sys.exit(MISTAKE)
    except Preempted as preempted:
      signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a launcher may pass the signal on
      print(f'preempted: {printable(str(preempted))}', file=sys.stderr)
      sys.exit(RESUME_ME)
    except KeyboardInterrupt:  # before training began, or in a command that does not train
      print('interrupted', file=sys.stderr)
      sys.exit(128 + signal.SIGINT)
    finally:
      sys.stdout.flush()  # Python's own flush, at exit, would tell of a closed pipe
  except OSError as error:
    if error.errno == errno.ENAMETOOLONG:  # of a path in the flags, wherever it is first looked at
      tell(f'{str(error.filename)[:100]}...: the name is too long for a file')
      sys.exit(MISTAKE)
    if isinstance(error, PermissionError) and error.filename:  # of whatever is looked at before it is read
      tell(f'{error.filename}: {error.strerror}: expected what this user may read')
      sys.exit(MISTAKE)
    if not isinstance(error, BrokenPipeError) or not _output_is_closed():
      raise
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush
    sys.exit(128 + signal.SIGPIPE)


def _output_is_closed() -> bool:
  """Whether stdout is a pipe that nobody reads."""
  poll = select.poll()
  poll.register(sys.stdout, 0)  # for errors alone
  return bool(poll.poll(0))


def _parse(command: Command, arguments: list[str]) -> tuple[FlagValues, list[str]]:
  """The flags and the arguments of a command. Raises UserError for what it does not take, and for what is missing."""
  values = FlagValues()
  command.define_flags(values)
  arguments = with_config_path(arguments)
  sys.argv = [sys.argv[0], *arguments]  # where ml_collections looks for the fields that are overridden
  try:
    with warnings.catch_warnings():  # ml_collections loads a config so; under `python -W error` that would end here
      warnings.filterwarnings('ignore', r'the load_module\(\) method is deprecated', DeprecationWarning)
      rest = values(sys.argv)[1:]
  except UserError:
    raise
  except Exception as error:  # whatever a config file raises
    if message := _fault_of_config(error, arguments):
      raise UserError(message) from error
    if not isinstance(error, flags.Error | AttributeError | KeyError | TypeError | ValueError | OSError):
      raise
    raise UserError(_explain(error, arguments)) from error
  if len(rest) > len(command.arguments):
    raise UserError(f'unexpected argument {rest[len(command.arguments)]!r}: flags are written --name=value')
  if len(rest) < len(command.arguments):
    raise UserError(f'the argument {command.arguments[len(rest)]} is missing')
  for name in command.required:
    if not values[name].value:
      raise UserError(f'--{name} is missing')
  if 'config' in values and values.config is not None:
    _check_config(values)
  return values, rest


def with_config_path(arguments: list[str]) -> list[str]:
  """Returns the arguments with the path of a config in place of its name. Raises UserError for an unknown name."""
  changed = list(arguments)
  for i, argument in enumerate(arguments):
    value = '(--?config=)' if not i or arguments[i - 1] not in ('--config', '-config') else '()'
    if match := re.fullmatch(rf'{value}(\w+)(:.*)?', argument):
      prefix, name, config_argument = match.groups(default='')
      if not os.path.exists(name):
        changed[i] = f'{prefix}{config_path(name)}{config_argument}'
  return changed


def config_path(name: str) -> Path:
  """Returns the file of a config that comes with the package, by its name. Raises UserError where there is none."""
  names = sorted(path.stem for path in CONFIGS.glob('*.py') if path.stem != '__init__')
  if name not in names:
    nearest = difflib.get_close_matches(name, names, 1)
    hint = f': did you mean {nearest[0]}?' if nearest else ''
    raise UserError(f'--config={name}: no such config: expected a path, or one of {", ".join(names)}{hint}')
  return CONFIGS / f'{name}.py'


def config_name(path: str) -> str:
  """Returns the name of a config that comes with the package; for any other file its path."""
  return Path(path).stem if Path(path).parent == CONFIGS else path


def _check_config(values: FlagValues) -> None:
  """Raises UserError for a config that cannot be read, as ml_collections says once it is looked into, or run."""
  from moonshine_jax import config as config_lib  # with JAX, which takes seconds

  try:
    values.config.items()
  except OSError as error:
    raise UserError(f'--config: {error.__cause__}') from error
  except AttributeError as error:
    raise UserError(f'--config: expected a ConfigDict of get_config, not {type(values.config).__name__}') from error
  config_lib.check(values.config)


def _fault_of_config(error: Exception, arguments: Sequence[str]) -> str:
  """Where and how the file of --config failed, in a line; empty where it did not."""
  path = next((match[1] for each in arguments if (match := re.fullmatch(r'--?config=([^:]+).*', each))), '')
  cause: BaseException | None = error
  while cause is not None:  # ml_collections and absl raise errors of their own in place of the config's
    if isinstance(cause, SyntaxError):
      return f'--config: {cause.filename}, line {cause.lineno}: not Python: {cause.msg}'
    lines = [frame.lineno for frame in traceback.extract_tb(cause.__traceback__) if frame.filename == path]
    called = isinstance(cause, AttributeError | TypeError) and 'get_config' in str(cause).splitlines()[0]
    if lines or called:
      line = f', line {lines[-1]}' if lines else ''
      hint = ': moonshine_jax.configs is found from every folder' if getattr(cause, 'name', '') == 'configs' else ''
      return f'--config: {path}{line}: {type(cause).__name__}: {cause}{hint}'
    cause = cause.__context__
  return ''


def _explain(error: Exception, arguments: Sequence[str]) -> str:
  """What is wrong with the flags. A bare KeyError or AttributeError stands for an unknown field: names its flag."""
  if not isinstance(error, AttributeError | KeyError):
    return str(error)
  message = re.sub(r'\\n|[\'"\\]', lambda match: ' ' if match[0] == r'\n' else '', str(error.args[0]))
  field = message.split()[0]
  flag = next((each for each in arguments if re.match(rf'--?config\.(\w+\.)*{re.escape(field)}\b', each)), None)
  return f'{flag.split("=")[0] if flag else "--config"}: no such config field: {message}'


def _overview() -> str:
  """A line for each command."""
  width = max(map(len, COMMANDS))
  lines = [f'  {command.name:{width}}  {command.summary}' for command in COMMANDS.values()]
  return '\n'.join([
    moonshine_jax.__doc__, '', 'Usage: moonshine COMMAND [FLAGS]', '', *lines, '',
    'Flags and examples of a command: moonshine COMMAND --help. Version: moonshine --version.',
  ])  # fmt: skip


def _help(command: Command) -> str:
  """The manual of a command, and its flags."""
  values = FlagValues()
  command.define_flags(values)
  usage = f'Usage: {" ".join(["moonshine", command.name, *command.arguments])} [FLAGS]'
  lines = [usage, '', command.manual, '', 'Flags:']
  for name in sorted(values):
    if values[name].name == name:  # no other name of a flag
      text = f'--{name}: {_help_of_flag(values[name], name in command.required)}'
      lines += textwrap.wrap(text, 100, initial_indent='  ', subsequent_indent='      ')
  return '\n'.join(lines)


def _help_of_flag(flag: flags.Flag, required: bool) -> str:
  text = flag.help.partition(';\n')[0]  # what absl adds says how to repeat a flag
  default = ','.join(flag.default) if isinstance(flag.default, list) else flag.default
  if default:
    return f'{text} Default: {default}.'
  return f'{text} Required.' if required else text
