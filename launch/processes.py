"""Runs commands in processes, several at a time, and stops all of them together with nothing lost."""

import collections
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

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
  waiting, idle = collections.deque(commands), list(environments)
  running: dict[Path, tuple[subprocess.Popen, dict[str, str]]] = {}
  failures: list[str] = []
  stopped, passed_on = False, False
  told = time.monotonic()
  with signals.Signals() as caught:
    try:
      while running or (waiting and not stopped):
        while waiting and idle and not stopped:
          log, environment = waiting.popleft(), idle.pop(0)
          running[log] = (_start(commands[log], log, environment), environment)
        time.sleep(POLL_SECONDS)
        if caught.received and not passed_on:
          stopped = passed_on = True
          _terminate(running)
        ended = [log for log, (process, _) in running.items() if process.poll() is not None]
        for log in ended:
          process, environment = running.pop(log)
          idle.append(environment)
          stopped |= process.returncode == RESUME_ME
          if process.returncode not in (0, RESUME_ME):
            failures.append(f'{log}: {_last_line(log) or f"ended with status {process.returncode}"}')
        if ended or time.monotonic() - told > TELL_SECONDS:
          told = time.monotonic()
          tell()
    finally:
      _terminate(running)
  failed = f'{len(failures)} of {len(commands)} runs failed: ' + '; '.join(failures)
  if stopped:
    saved = f'{failed}; all others are saved' if failures else 'all that ran is saved'
    raise Preempted(f'{saved}: the same command goes on from there')
  if failures:
    raise UserError(failed)


def _start(command: Sequence[str], log: Path, environment: dict[str, str]) -> subprocess.Popen:
  with _open_log(log) as file:
    # In a process group apart, the command gets no SIGINT from Ctrl-C beside the SIGTERM that is passed on: it would
    # take the two for a user who presses twice, and end unsaved.
    return subprocess.Popen(
      command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, process_group=0
    )


def _open_log(path: Path) -> IO[str]:
  with files.writing(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path, 'a', opener=files.open_no_link)


def _terminate(running: Mapping[Path, tuple[subprocess.Popen, dict[str, str]]]) -> None:
  for process, _ in running.values():
    process.terminate()


def _last_line(log: Path) -> str:
  """Returns the last line of a log that is not blank, which says why a command failed; empty where there is none."""
  lines = log.read_text(errors='replace').split('\n')
  return next((line for line in reversed(lines) if line.strip()), '')
