"""Several processes of one run: how they start and end together.

The first process alone prints; the others are silent but for errors of their own.
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
from typing import Any

import jax
from absl import flags

from moonshine_jax.errors import MISTAKE, Preempted, UserError, tell
from moonshine_jax.runtime.exchange import coordinator_address, is_first
from moonshine_jax.runtime.watchdog import GRACE_SECONDS, LOST, SILENCE_SECONDS, Watchdog

BACKSTOP_SECONDS = 60  # after which JAX itself aborts, should Python not get to run
NOT_FOUND = (
  'the processes do not find each other: expected process 0 at {}, and all of them started within 5 '
  'minutes, with the same --num_processes'
)

_connected = threading.Event()


def define_flags() -> None:
  """The flags of a command that several processes can run together."""
  flags.DEFINE_bool('distributed', False, 'This is one of several processes, as Slurm, Cloud TPU or Open MPI tell.')
  flags.DEFINE_string('coordinator_address', None, 'HOST:PORT, on the machine of process 0, where no cluster tells.')
  flags.DEFINE_integer('num_processes', None, 'How many processes there are, likewise.')
  flags.DEFINE_integer('process_id', None, 'Which of them this is, from 0, likewise.')


@contextlib.contextmanager
def processes() -> Iterator[None]:
  """Makes this process one of several, as the flags say; on leaving all end together. Without --distributed, nothing.

  An error ends this process at once, and the others with it. Raises UserError for flags that say no such thing.
  """
  given = {name: flags.FLAGS[name].value for name in ('coordinator_address', 'num_processes', 'process_id')}
  _check_flags(flags.FLAGS.distributed, **given)
  if not flags.FLAGS.distributed:
    yield
    return
  _start(**given)
  watchdog = Watchdog()
  try:
    yield
    watchdog.finish()
  except Preempted:  # all of them, after the same step
    watchdog.finish()
    raise
  except UserError as error:
    watchdog.end(MISTAKE, str(error))
  except BaseException as error:
    if isinstance(error, jax.errors.JaxRuntimeError):  # by the loss of another process? Then the watchdog ends us here
      time.sleep(SILENCE_SECONDS + GRACE_SECONDS)
    traceback.print_exc(file=sys.__stderr__)
    watchdog.end(1, f'{type(error).__name__}: {error}')


def _check_flags(
  distributed: bool, coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
  given = [value is not None for value in (coordinator_address, num_processes, process_id)]
  if any(given) and not (distributed and all(given)):
    raise UserError('--coordinator_address, --num_processes and --process_id: expected all three, with --distributed')
  if not any(given):
    return
  host, _, port = coordinator_address.rpartition(':')
  if not re.fullmatch(r'[^\s/]+', host) or not port.isdecimal() or not 0 < int(port) < 2**16:
    raise UserError(f'--coordinator_address={coordinator_address}: expected HOST:PORT')
  if num_processes < 1:
    raise UserError(f'--num_processes={num_processes}: expected at least 1')
  if not 0 <= process_id < num_processes:
    raise UserError(f'--process_id={process_id}: expected at least 0 and less than --num_processes={num_processes}')


def _start(**given: Any) -> None:
  """Connects this process with the others. Raises UserError where that fails."""
  ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)
  jax.config.update('jax_enable_preemption_service', False)  # it takes SIGTERM, which is for `signals`
  try:
    jax.distributed.initialize(
      **given,
      cluster_detection_method='deactivate' if given['coordinator_address'] else None,
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
      f'--distributed: cannot start at {coordinator_address()} ({reason}): expected a free port there'
    ) from error
  _connected.set()
  # Gloo writes to the standard output of a process, which is that of the results.
  sys.stdout = os.fdopen(os.dup(sys.__stdout__.fileno()), 'w') if is_first() else open(os.devnull, 'w')
  if not is_first():
    sys.stderr = open(os.devnull, 'w')
  with open(os.devnull, 'w') as nothing:
    os.dup2(nothing.fileno(), sys.__stdout__.fileno())


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(_: int) -> None:
  """JAX aborts where the coordinator is not found, or closes the connection: adds our line to its report."""
  if not _connected.is_set():
    tell(NOT_FOUND.format(coordinator_address()), sys.__stderr__)
    os._exit(1)
  host, _, port = coordinator_address().rpartition(':')
  try:
    socket.create_connection((host, int(port)), timeout=2).close()
  except OSError:
    tell(LOST.format(0), sys.__stderr__)
    os._exit(1)
  os._exit(128 + signal.SIGABRT)
