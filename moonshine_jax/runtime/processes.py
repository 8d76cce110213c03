"""The start and the end of the processes of a run.

Only the first process prints; the others are silent, except for an error that they alone meet.
"""

import contextlib
import ctypes
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import jax

from moonshine_jax.errors import MISTAKE, Preempted, UserError, tell
from moonshine_jax.runtime import exchange
from moonshine_jax.runtime.watchdog import GRACE_SECONDS, LOST, SILENCE_SECONDS, Watchdog

BACKSTOP_SECONDS = 60  # after which JAX itself aborts, should Python not get to run
NOT_FOUND = (
  'the processes do not find each other: expected process 0 at {}, and all of them started within 5 '
  'minutes, with the same --num_processes'
)

_connected = threading.Event()


@contextlib.contextmanager
def connect(
  distributed: bool,
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> Iterator[None]:
  """Makes this process one of the processes of a run, while entered; all of them end together.

  An error inside ends this process at once, and the others with it. Not distributed, this does nothing.

  Args:
    distributed: whether there are several processes. Slurm, Cloud TPU or Open MPI tell of the others, or else the
      other three arguments do, which stand together.
    coordinator_address: HOST:PORT, on the machine of process 0.
    num_processes: number of processes.
    process_id: which of the processes this is, from 0.

  Raises:
    UserError: for arguments that do not fit together, and where the processes cannot be connected.
  """
  _check(distributed, coordinator_address, num_processes, process_id)
  if not distributed:
    yield
    return
  _start(coordinator_address, num_processes, process_id)
  watchdog = Watchdog()
  try:
    yield
    watchdog.finish()
  except Preempted:  # all processes, after the same step
    watchdog.finish()
    raise
  except UserError as error:
    watchdog.end(MISTAKE, str(error))
  except BaseException as error:
    # Is the cause the loss of another process? Then the watchdog ends this one during the wait.
    if isinstance(error, jax.errors.JaxRuntimeError):
      time.sleep(SILENCE_SECONDS + GRACE_SECONDS)
    traceback.print_exc(file=sys.__stderr__)
    watchdog.end(1, f'{type(error).__name__}: {error}')


def _check(
  distributed: bool, coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
  """Raises UserError for arguments of `connect` that do not fit together."""
  if coordinator_address is None and num_processes is None and process_id is None:
    return
  if coordinator_address is None or num_processes is None or process_id is None or not distributed:
    raise UserError('--coordinator_address, --num_processes and --process_id: expected all three, with --distributed')
  host, _, port = coordinator_address.rpartition(':')
  if not re.fullmatch(r'[^\s/]+', host) or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise UserError(f'--coordinator_address={coordinator_address}: expected HOST:PORT')
  if num_processes < 1:
    raise UserError(f'--num_processes={num_processes}: expected at least 1')
  if not 0 <= process_id < num_processes:
    raise UserError(f'--process_id={process_id}: expected at least 0 and less than --num_processes={num_processes}')


def _start(coordinator_address: str | None, num_processes: int | None, process_id: int | None) -> None:
  """Connects this process with the others. Raises UserError where that fails."""
  ctypes.CDLL(None).signal(signal.SIGABRT, _ABORT_HANDLER)
  jax.config.update('jax_enable_preemption_service', False)  # it takes SIGTERM, which is for `signals`
  try:
    jax.distributed.initialize(
      coordinator_address,
      num_processes,
      process_id,
      cluster_detection_method='deactivate' if coordinator_address else None,
      heartbeat_timeout_seconds=BACKSTOP_SECONDS,
    )
  except ValueError as error:
    raise UserError(
      f'--distributed: no cluster tells this process of the others ({error}): expected Slurm, Cloud TPU '
      'or Open MPI, or --coordinator_address=HOST:PORT, --num_processes=N and --process_id=I'
    ) from error
  except RuntimeError as error:
    reason = str(error).splitlines()[0]
    raise UserError(
      f'--distributed: cannot start at {exchange.coordinator_address()} ({reason}): expected a free port there'
    ) from error
  _connected.set()
  _silence()


def _silence() -> None:
  """Silences the processes other than the first, and Gloo in all: stdout is for the results."""
  # Gloo writes to the file descriptor of stdout. Python's stdout becomes a copy of it, in the first process.
  assert sys.__stdout__ is not None  # only a program without a console, on Windows, has none
  devnull = os.open(os.devnull, os.O_WRONLY)
  sys.stdout = os.fdopen(os.dup(sys.__stdout__.fileno()) if exchange.is_first() else devnull, 'w')
  if not exchange.is_first():
    sys.stderr = os.fdopen(os.dup(devnull), 'w')
  os.dup2(devnull, sys.__stdout__.fileno())


def _on_abort(_number: int) -> None:
  """Adds our line to JAX's report when JAX aborts: the coordinator is not found, or closes the connection."""
  if not _connected.is_set():
    tell(NOT_FOUND.format(exchange.coordinator_address()), sys.__stderr__)
    os._exit(1)
  host, _, port = exchange.coordinator_address().rpartition(':')
  try:
    socket.create_connection((host, int(port)), timeout=2).close()
  except OSError:
    tell(LOST.format(0), sys.__stderr__)
    os._exit(1)
  os._exit(128 + signal.SIGABRT)


_ABORT_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)(_on_abort)  # C calls it for as long as the process lives
