"""Runs commands in processes, several at a time, and stops all of them together with nothing lost."""

import collections
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from moonshine_jax.errors import RESUME_ME, Preempted, UserError
from moonshine_jax.runtime import files, signals

POLL_SECONDS = 0.2  # between looks at the processes and at the signals
TELL_SECONDS = 60.0  # between reports of progress where no command ends


def environments(workers: int) -> list[dict[str, str]]:
  """Returns the environment variables of each process that runs at a time: all devices for one, a GPU each for several.

  Args:
    workers: how many processes run at a time.

  Returns:
    A whole environment for each of them. Several get the GPUs of $CUDA_VISIBLE_DEVICES, or else those from 0.

  Raises:
    UserError: where $CUDA_VISIBLE_DEVICES names fewer GPUs.
  """
  if workers == 1:
    return [dict(os.environ)]
  gpus = os.environ.get('CUDA_VISIBLE_DEVICES', ','.join(map(str, range(workers)))).split(',')
  if len(gpus) < workers:
    raise UserError(f'--workers={workers}: expected at most {len(gpus)}, the GPUs of $CUDA_VISIBLE_DEVICES')
  # With JAX_PLATFORMS set, a missing GPU is an error. Without it JAX would train on the CPU.
  return [{'JAX_PLATFORMS': 'cuda', **os.environ, 'CUDA_VISIBLE_DEVICES': gpu} for gpu in gpus[:workers]]


def run_all(
  commands: Mapping[Path, Sequence[str]], environments: Sequence[dict[str, str]], tell: Callable[[], None]
) -> None:
  """Runs all commands in order, as many at a time as there are environments.

  Where one fails, the others still run. SIGTERM and SIGINT are passed on to all that run, and no other is started.

  Args:
    commands: the words of each command, by the log file that its output is appended to.
    environments: the environment variables of each process that runs at a time.
    tell: reports the progress; called when a command has ended, and every `TELL_SECONDS` in between.

  Raises:
    Preempted: where the commands were asked to stop, once all that ran have ended.
    UserError: where some commands failed, once all have ended.
  """
  waiting, group = collections.deque(commands), _Group(environments)
  told = time.monotonic()
  with signals.Signals(group.ask_to_end):
    try:
      while group.running or (waiting and not group.stopped):
        while waiting and group.idle and not group.stopped:
          log = waiting.popleft()
          group.start(log, commands[log])
        time.sleep(POLL_SECONDS)
        if group.collect() or time.monotonic() - told > TELL_SECONDS:
          told = time.monotonic()
          tell()
    except BaseException:
      group.ask_to_end()
      raise
  failures = group.failures
  failed = f'{len(failures)} of {len(commands)} runs failed: ' + '; '.join(failures)
  if group.stopped:
    saved = f'{failed}; all others are saved' if failures else 'all that ran is saved'
    raise Preempted(f'{saved}: the same command goes on from there')
  if failures:
    raise UserError(failed)


class _Running(NamedTuple):
  """A process that runs, with its environment, and the length of its log before it began."""

  popen: subprocess.Popen
  environment: dict[str, str]
  log_begins: int


class _Group:
  """Processes that run side by side.

  Attributes:
    idle: the environments that no process has.
    running: the processes, by their logs.
    failures: why some have failed.
    stopped: whether no other is to start.
  """

  def __init__(self, environments: Sequence[dict[str, str]]):
    self.idle = list(environments)
    self.running: dict[Path, _Running] = {}
    self.failures: list[str] = []
    self.stopped = False
    self._asked_to_end: set[Path] = set()

  def start(self, log: Path, command: Sequence[str]) -> None:
    """Starts a command in an environment that is idle."""
    environment = self.idle.pop(0)
    with _open_log(log) as file:
      log_begins = os.fstat(file.fileno()).st_size
      # In a process group apart, the command gets no SIGINT from Ctrl-C beside the SIGTERM that is passed on: it would
      # take the two for a user who presses twice, and end unsaved.
      popen = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, process_group=0
      )
    self.running[log] = _Running(popen, environment, log_begins)
    if self.stopped:  # meanwhile
      self.ask_to_end()

  def ask_to_end(self) -> None:
    """Sends SIGTERM to all that run, once to each: a second one would end it unsaved."""
    self.stopped = True
    for log, process in list(self.running.items()):  # in the thread that reads signals, too
      if log not in self._asked_to_end:
        self._asked_to_end.add(log)
        process.popen.terminate()

  def collect(self) -> bool:
    """Takes the processes that have ended from those that run; returns whether any has."""
    ended = [log for log, process in self.running.items() if process.popen.poll() is not None]
    for log in ended:
      process = self.running.pop(log)
      self.idle.append(process.environment)
      status = process.popen.returncode
      was_asked = status == -signal.SIGTERM and log in self._asked_to_end  # before it could catch the signal
      self.stopped |= status == RESUME_ME
      if status not in (0, RESUME_ME) and not was_asked:
        self.failures.append(f'{log}: {_why_it_failed(log, process)}')
    return bool(ended)


def _open_log(path: Path) -> IO[str]:
  with files.writing(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path, 'a', opener=files.open_no_link)


def _why_it_failed(log: Path, process: _Running) -> str:
  """Returns the last line of the log that is not blank, after the signal that ended the process, if one did."""
  status = process.popen.returncode
  lines = log.read_bytes()[process.log_begins :].decode(errors='replace').split('\n')
  said = next((line for line in reversed(lines) if line.strip()), '')
  if status < 0:
    return f'{signal.strsignal(-status)} (signal {-status})' + f' after: {said}' * bool(said)
  return said or f'ended with status {status}'
