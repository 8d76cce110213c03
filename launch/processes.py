"""Commands in processes of their own, several at a time, that are stopped together and lose nothing."""

import collections
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from moonshine_jax.errors import RESUME_ME, Preempted, UserError
from moonshine_jax.runtime import files, signals

POLL_SECONDS = 0.2
TELL_SECONDS = 60.0  # between two words of how far all are


def environments(workers: int) -> list[dict[str, str]]:
  """An environment for each process that runs at a time: one sees all devices, several see one GPU each.

  Raises UserError where $CUDA_VISIBLE_DEVICES names fewer GPUs.
  """
  if workers == 1:
    return [dict(os.environ)]
  gpus = os.environ.get('CUDA_VISIBLE_DEVICES', ','.join(map(str, range(workers)))).split(',')
  if len(gpus) < workers:
    raise UserError(f'--workers={workers}: expected at most {len(gpus)}, the GPUs of $CUDA_VISIBLE_DEVICES')
  # With the platform named, a GPU that is not there is an error; JAX would go on with the CPU.
  return [{'JAX_PLATFORMS': 'cuda', **os.environ, 'CUDA_VISIBLE_DEVICES': gpu} for gpu in gpus[:workers]]


def run_all(
  commands: dict[Path, Sequence[str]], environments: Sequence[dict[str, str]], tell: Callable[[], None]
) -> None:
  """Runs every command, in order, as many at a time as there are environments.

  One that fails leaves the others to run. SIGTERM and SIGINT go to all that are running, and no other is started.

  Args:
    commands: by the file that takes what each says, to which it is added.
    environments: of the processes that run at a time.
    tell: called whenever a command has ended, and in between, to say how far all are.

  Raises:
    Preempted: once all that ran have ended, where they were asked to stop.
    UserError: once all have ended, where some failed.
  """
  waiting, free, running, failed, stopped = collections.deque(commands), list(environments), {}, [], False
  told = time.monotonic()
  with signals.Signals() as caught:
    try:
      while running or (waiting and not stopped):
        while waiting and free and not stopped:
          log, environment = waiting.popleft(), free.pop(0)
          running[log] = (_start(commands[log], log, environment), environment)
        time.sleep(POLL_SECONDS)
        if caught.received and not stopped:
          stopped = True
          _terminate(running)
        ended = [log for log, (process, _) in running.items() if process.poll() is not None]
        for log in ended:
          process, environment = running.pop(log)
          free.append(environment)
          stopped |= process.returncode == RESUME_ME
          if process.returncode not in (0, RESUME_ME):
            failed.append(f'{log}: {_last_line(log) or f"ended with status {process.returncode}"}')
        if ended or time.monotonic() - told > TELL_SECONDS:
          told = time.monotonic()
          tell()
    finally:
      _terminate(running)
  if stopped:
    raise Preempted('all that ran is saved: the same command goes on from there')
  if failed:
    raise UserError(f'{len(failed)} of {len(commands)} runs failed: ' + '; '.join(failed))


def _start(command, log, environment):
  with files.writing(log):
    log.parent.mkdir(parents=True, exist_ok=True)
    file = open(log, 'a')
  with file:
    # A process group of its own keeps a Ctrl-C from the run, which would take it and what is passed on for two signals.
    return subprocess.Popen(
      command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, process_group=0
    )


def _terminate(running):
  for process, _ in running.values():
    process.terminate()


def _last_line(log):
  lines = log.read_text(errors='replace').split('\n')
  return next((line for line in reversed(lines) if line.strip()), '')
