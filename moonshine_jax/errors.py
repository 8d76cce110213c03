"""How a run ends early: what a user can put right, what can go on later, and the one line that a command prints."""

import errno
import os
import re
import select
import signal
import sys
from collections.abc import Callable
from typing import Any, TextIO

from absl import app, flags, logging


class UserError(Exception):
  """A mistake in the config, the flags or the files given: the message says what, where and what would be right."""


class Preempted(Exception):
  """A run that was asked to stop and has saved: the same command goes on. The message says so."""


def shown(value: Any) -> str:
  """The value as Python writes it, cut where it would fill the screen."""
  try:
    text = repr(value)
  except ValueError:  # Python refuses to write integers of thousands of digits
    text = f'an integer of {value.bit_length()} bits' if isinstance(value, int) else f'a {type(value).__name__}'
  return text if len(text) <= 200 else text[:200] + '...'


MISTAKE = 2  # the exit status of a user's mistake
RESUME_ME = 75  # that of a run that was preempted: EX_TEMPFAIL of sysexits.h


def warn(message: str) -> None:
  """Prints one line on stderr."""
  print('warning: ' + ' '.join(message.split()), file=sys.stderr, flush=True)


def tell(error: str, stream: TextIO | None = None) -> None:
  """Prints an error as one line, on stderr if not elsewhere."""
  print('error: ' + ' '.join(error.split()), file=stream or sys.stderr, flush=True)


def run_command(main: Callable[..., None], *arguments: str) -> None:
  """Parses the flags and runs a command; a user's mistake becomes one line on stderr and exit status 2.

  A run that was preempted becomes one line and exit status 75; a command whose output nobody reads any more, as under
  `| head -1`, ends without a word and with the status that SIGPIPE gives others.

  Args:
    main: called with the command's arguments other than flags.
    arguments: the names of these, for the line that says that one is missing.
  """

  def parse(argv):
    try:
      given = flags.FLAGS(argv)
    except BrokenPipeError:  # of --help
      raise
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
      _exit(_explain_flags(error, argv))
    except SyntaxError as error:
      _exit(f'--config: {error.filename}, line {error.lineno}: not Python: {error.msg}')
    if len(given) - 1 > len(arguments):
      _exit(f'unexpected argument {given[len(arguments) + 1]!r}: flags are written --name=value')
    if len(given) - 1 < len(arguments):
      _exit(f'the argument {arguments[len(given) - 1]} is missing')
    return given

  def guarded(argv):
    try:
      main(*argv[1:])
    except UserError as error:
      _exit(str(error))
    except OSError as error:
      if error.errno != errno.ENAMETOOLONG:  # the one that a path in the flags may cause wherever it is first looked at
        raise
      _exit(f'{str(error.filename)[:100]}...: the name is too long for a file')
    except Preempted as preempted:
      print(f'preempted: {preempted}', file=sys.stderr)
      sys.exit(RESUME_ME)
    except KeyboardInterrupt:  # before training began, or in a command that does not train
      print('interrupted', file=sys.stderr)
      sys.exit(128 + signal.SIGINT)

  flags.FLAGS.verbosity = logging.FATAL  # Orbax tells of every step, and of what it raises with a traceback as well
  try:
    try:
      app.run(guarded, flags_parser=parse)
    finally:
      sys.stdout.flush()  # what is left; Python's own flush, at exit, would tell of a closed pipe
  except BrokenPipeError:
    if not _output_is_closed():
      raise
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush
    sys.exit(128 + signal.SIGPIPE)


def require_flags(**values: object) -> None:
  """Raises UserError for the first flag without a value."""
  for name, value in values.items():
    if not value:
      raise UserError(f'--{name} is missing')


def _output_is_closed() -> bool:
  """Whether stdout is a pipe that nobody reads."""
  poll = select.poll()
  poll.register(sys.stdout, 0)  # for errors alone
  return bool(poll.poll(0))


def _exit(message: str) -> None:
  tell(message)
  sys.exit(MISTAKE)


def _explain_flags(error: Exception, argv: list[str]) -> str:
  """A config override of an unknown field reaches us as a bare KeyError or AttributeError: name its flag."""
  if not isinstance(error, AttributeError | KeyError):
    return str(error)
  message = re.sub(r'\\n|[\'"\\]', lambda match: ' ' if match[0] == r'\n' else '', str(error.args[0]))
  field = message.split()[0]
  flag = next((arg for arg in argv if re.match(rf'--?config\.(\w+\.)*{re.escape(field)}\b', arg)), None)
  return f'{flag.split("=")[0] if flag else "--config"}: no such config field: {message}'
