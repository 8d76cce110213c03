"""What a user can put right, and what can go on later: the exceptions, their exit statuses, and what is printed."""

import functools
import sys
from typing import Any, TextIO

# Exit statuses of the commands.
MISTAKE = 2  # of a user's mistake
RESUME_ME = 75  # of a run that was preempted: EX_TEMPFAIL of sysexits.h


class UserError(Exception):
  """A mistake in the config, the flags or the files: the message says what, where, and what would be right."""


class Preempted(BaseException):
  """A run that was asked to stop and has saved: the same command goes on. The message says so.

  No Exception, as KeyboardInterrupt is none: what catches any error of a library lets it pass.
  """


def shown(value: Any) -> str:
  """Returns the value as Python writes it, cut where it would fill the screen."""
  try:
    text = repr(value)
  except ValueError:  # Python refuses to write integers of thousands of digits
    text = f'an integer of {value.bit_length()} bits' if isinstance(value, int) else f'a {type(value).__name__}'
  return text if len(text) <= 200 else text[:200] + '...'


def printable(text: str) -> str:
  """Returns the text with all that a reader cannot see written as Python escapes it.

  These are control characters, as the escape sequences of terminals have, marks that reverse the direction of writing
  or have no width, lone surrogates, and other spaces than the plain one.
  """
  return ''.join(
    character if character.isprintable() else character.encode('unicode_escape').decode() for character in text
  )


def say(text: str) -> None:
  """Prints lines on stdout, each of them printable, whatever stdout's encoding has."""
  text = '\n'.join(map(printable, text.split('\n')))
  encoding = sys.stdout.encoding or 'utf-8'
  print(text.encode(encoding, 'backslashreplace').decode(encoding), flush=True)


def warn(message: str) -> None:
  """Prints one line on stderr."""
  print('warning: ' + _line(message), file=sys.stderr, flush=True)


@functools.cache
def warn_once(message: str) -> None:
  """Prints one line on stderr, the first time that this process says so."""
  warn(message)


def tell(error: str, stream: TextIO | None = None) -> None:
  """Prints an error as one line, on stderr if not elsewhere."""
  print('error: ' + _line(error), file=stream or sys.stderr, flush=True)


def _line(message: str) -> str:
  return printable(' '.join(message.split()))
