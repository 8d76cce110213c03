"""Pieces of a long measurement: each a process with a time of its own, whose outcome stays on the disk.

A piece's folder has what it printed (`stdout.txt`, `stderr.txt`), what it measured (`rows.json`) and its outcome
(`outcome.json`). A piece that is done is not run again; one that failed, ran over its time or was cut off has a second
try in a later run. To have it done anew, delete its folder.
"""

import contextlib
import ctypes
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from moonshine_jax.errors import RESUME_ME
from moonshine_jax.runtime import files

GRACE = 20  # seconds from SIGTERM, at which a training run saves, to SIGKILL
TRIES = 2
ROWS, OUT, ERRORS, OUTCOME = 'rows.json', 'stdout.txt', 'stderr.txt', 'outcome.json'
DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG

# What became of a piece. It is RUNNING in the file of one that was cut off together with this process.
DONE, PAUSED, FAILED, OVERRAN, RUNNING = 'done', 'to go on', 'failed', 'out of time', 'cut off'


class Piece(NamedTuple):
  """A piece.

  Attributes:
    name: of its folder.
    seconds: that it may take; a lasting piece begins where as many are left.
    purpose: what it is for, in a line.
    command: arguments of Python, as a shell has them; {names} in them stand for what a run puts there.
    rehearsal: further arguments that make it small.
    variables: of its environment, as NAME=value NAME=value.
    backend: of JAX, where alone it runs; any if empty.
    module: that must be installed, if any.
    needs: names of the pieces that must be done before.
    lasting: whether it takes all the time that is left, and goes on in the next run where it ended in this one.
    always: whether it is run in every run.
  """

  name: str
  seconds: int
  purpose: str
  command: str
  rehearsal: str = ''
  variables: str = ''
  backend: str = ''
  module: str = ''
  needs: tuple[str, ...] = ()
  lasting: bool = False
  always: bool = False


class Outcome(NamedTuple):
  """What became of a piece.

  Attributes:
    state: DONE, PAUSED, FAILED, OVERRAN or RUNNING.
    tries: times that it was begun and that count.
    seconds: that all its tries took.
    told: why it failed, in a line.
  """

  state: str
  tries: int
  seconds: float
  told: str = ''


def read_outcome(folder: Path) -> Outcome | None:
  """Returns what became of the piece of a folder; None where it has not begun."""
  path = folder / OUTCOME
  return Outcome(**json.loads(path.read_text())) if path.exists() else None


def write_outcome(folder: Path, outcome: Outcome) -> None:
  """Writes what became of the piece of a folder."""
  files.write_atomically(folder / OUTCOME, json.dumps(outcome._asdict()))


def is_left(piece: Piece, outcome: Outcome | None) -> bool:
  """Whether a run takes up a piece."""
  return piece.always or outcome is None or (outcome.state != DONE and outcome.tries < TRIES)


def run_piece(
  piece: Piece,
  arguments: list[str],
  folder: Path,
  seconds: float,
  environment: Mapping[str, str],
  signals: Sequence[str] = (),
) -> Outcome:
  """Runs a piece in a process, which is gone on return.

  Args:
    piece: the piece.
    arguments: of Python.
    folder: of the piece; what an earlier try measured is kept there under another name.
    seconds: after which it is stopped; it may take GRACE more, to save.
    environment: variables of its process.
    signals: those that this process received; the first ends the piece, and that try does not count.

  Returns:
    What became of it, which is on the disk too.
  """
  before = (not piece.always and read_outcome(folder)) or Outcome(RUNNING, 0, 0.0)
  folder.mkdir(parents=True, exist_ok=True)
  number = len(list(folder.glob(f'{Path(OUT).stem}*')))
  for path in (folder / name for name in (ROWS, OUT, ERRORS)):
    if path.exists() and not piece.always:
      path.rename(path.with_stem(f'{path.stem}_of_try_{number}'))
  # Where this process and the piece end together, it may be the piece's fault: it counts as a try. A lasting piece goes
  # on from what it saved.
  write_outcome(folder, before._replace(state=RUNNING, tries=before.tries + (not piece.lasting)))
  start = time.monotonic()
  with open(folder / OUT, 'wb') as out, open(folder / ERRORS, 'wb') as err:
    process = subprocess.Popen(
      [sys.executable, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=dict(environment),
      start_new_session=True, preexec_fn=_end_with_parent,  # noqa: PLW1509 - this process has one thread
    )  # fmt: skip
    while process.poll() is None and not signals and time.monotonic() < start + seconds:
      time.sleep(0.1)
    stopped = process.poll() is None
    _end(process)
  errors = (folder / ERRORS).read_text(errors='replace')
  outcome = _judge(piece, process.returncode, stopped, bool(signals), errors)
  outcome = outcome._replace(
    tries=before.tries + (outcome.state not in (DONE, PAUSED)),
    seconds=round(before.seconds + time.monotonic() - start, 1),
  )
  write_outcome(folder, outcome)
  return outcome


def _judge(piece: Piece, status: int, stopped: bool, interrupted: bool, errors: str) -> Outcome:
  """What a process's end says, from its exit status, whether it was stopped, and what it wrote on stderr."""
  if status == 0:
    return Outcome(DONE, 0, 0)
  if status == RESUME_ME or (stopped and (interrupted or piece.lasting)):
    return Outcome(PAUSED, 0, 0)
  if stopped:
    return Outcome(OVERRAN, 0, 0, 'stopped at the end of its time')
  return Outcome(FAILED, 0, 0, why_it_failed(status, errors))


def why_it_failed(status: int, errors: str) -> str:
  """Returns in a line why a process failed, from its exit status and what it wrote on stderr."""
  lines = [line.strip() for line in errors.splitlines() if line.strip()]
  if any('RESOURCE_EXHAUSTED' in line or 'out of memory' in line.lower() for line in lines):
    return 'out of memory'
  if status < 0:
    last = f': {lines[-1][:200]}' if lines else ''
    return f'killed by {signal.Signals(-status).name}{last}'
  told = [line for line in lines if line.startswith('error: ') or ': error: ' in line]
  return (told or lines or [f'exit status {status}'])[-1][:300]


def _end_with_parent() -> None:
  """Asks Linux to end this process when its parent dies: it must not hold a device that the next run needs."""
  with contextlib.suppress(AttributeError, OSError):  # macOS has no prctl
    ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGTERM)


def _end(process: subprocess.Popen) -> None:
  """Ends a process and all of its group: SIGTERM to it, and after GRACE seconds SIGKILL to what is left."""
  if process.poll() is None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
      process.wait(GRACE)
  with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: of a group that is gone
    os.killpg(process.pid, signal.SIGKILL)
  process.wait()


@contextlib.contextmanager
def noted_signals() -> Iterator[list[str]]:
  """Notes SIGTERM and SIGINT, by name, in a list while entered, in place of ending this process."""
  noted: list[str] = []
  numbers = (signal.SIGTERM, signal.SIGINT)
  handlers = {
    number: signal.signal(number, lambda received, _: noted.append(signal.Signals(received).name)) for number in numbers
  }
  try:
    yield noted
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)


def split_command(piece: Piece, rehearse: bool, words: Mapping[str, list[str]], values: Mapping[str, str]) -> list[str]:
  """Returns the arguments of Python for a piece.

  Args:
    piece: the piece.
    rehearse: whether it is made small.
    words: arguments, any number of them, that a {name} alone stands for.
    values: what a {name} stands for within an argument.
  """
  arguments = []
  for word in shlex.split(piece.command) + (shlex.split(piece.rehearsal) if rehearse else []):
    if word.startswith('{') and word[1:-1] in words:
      arguments += words[word[1:-1]]
    else:
      arguments.append(re.sub(r'\{(\w+)\}', lambda match: values.get(match[1], match[0]), word))
  return arguments
