"""Several processes of one run: that they start and end together, and what the first reads for all.

The first process alone reads and writes the workdir, and prints; the others are silent but for errors of their own.

JAX notices a lost process after minutes, and then aborts. So each has a watchdog: the first process watches all others,
and these watch the first, by keys that each renews in the coordinator's key-value store. How a process ends is a key
too: an error in one is told by the first, and ends all with its exit status. The only file that uses this store, which
JAX does not document.
"""

import contextlib
import ctypes
import itertools
import json
import os
import pickle
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from absl import flags
from jax._src import distributed as jax_distributed

from moonshine_jax.errors import MISTAKE, RESUME_ME, Preempted, UserError, tell
from moonshine_jax.parallel import Replicas

PERIOD_SECONDS = 1.0  # between renewals of a process's key
SILENCE_SECONDS = 20.0  # without one, after which a process is lost
GRACE_SECONDS = 10.0  # that a process which ends waits for the others to hear of it
BACKSTOP_SECONDS = 60  # after which JAX itself aborts, should Python not get to run
NO_LIMIT_MS = 2**31 - 1  # a wait that only the watchdog ends
LOST = (
  'process {} has ended or does not answer: see its output; the same command on all processes goes on from the '
  'newest checkpoint'
)
NOT_FOUND = (
  'the processes do not find each other: expected process 0 at {}, and all of them started within 5 '
  'minutes, with the same --num_processes'
)

T = TypeVar('T')
_exchanges = itertools.count()  # every process makes the same ones
_connected = threading.Event()


def define_flags() -> None:
  """The flags of a command that several processes can run together."""
  flags.DEFINE_bool('distributed', False, 'This is one of several processes, as Slurm, Cloud TPU or Open MPI tell.')
  flags.DEFINE_string('coordinator_address', None, 'HOST:PORT, on the machine of process 0, where no cluster tells.')
  flags.DEFINE_integer('num_processes', None, 'How many processes there are, likewise.')
  flags.DEFINE_integer('process_id', None, 'Which of them this is, from 0, likewise.')


def is_first() -> bool:
  """Whether this process reads and writes the workdir: the only one, or process 0."""
  return jax_distributed.global_state.process_id == 0


def num_processes() -> int:
  """How many there are; unlike JAX's own function, without touching a device."""
  return jax_distributed.global_state.num_processes


def from_first(function: Callable[[], T], replicas: Replicas) -> T:
  """What a function returns in the first process, where alone it is called; all processes wait for it."""
  if num_processes() == 1:
    return function()
  key = f'moonshine_jax/exchange/{next(_exchanges)}'
  client = jax_distributed.global_state.client
  # All wait for the size in the store, however long that takes: the devices' first exchange may take seconds only.
  if is_first():
    value = function()
    data = np.frombuffer(pickle.dumps(value), np.uint8)
    client.key_value_set(key, str(data.size))
    replicas.of_first(data)
    return value
  size = int(client.blocking_key_value_get(key, NO_LIMIT_MS))
  return pickle.loads(replicas.of_first(np.zeros(size, np.uint8)).tobytes())


def first_before_others(function: Callable[[], T]) -> T:
  """What a function returns, called in the first process and then in the others, which find what it left on a disk."""
  if num_processes() == 1:
    return function()
  key = f'moonshine_jax/exchange/{next(_exchanges)}'
  client = jax_distributed.global_state.client
  if not is_first():
    client.blocking_key_value_get(key, NO_LIMIT_MS)
    return function()
  value = function()
  client.key_value_set(key, '')
  return value


class Agreement:
  """Whether to stop: asked by all processes equally often, and answered to all alike, some seconds after one wishes it.

  The first process decides about once a second, and says with each decision at which question the next one is due.
  (`multihost_utils.reached_preemption_sync_point` is for this, but a signal to a process was seen to have no effect.)
  """

  def __init__(self):
    self._key = f'moonshine_jax/agreement/{next(_exchanges)}'
    self._question = 0
    self._due = 1
    self._decided = 0, time.monotonic()  # the question of the last decision, and when that was

  def __call__(self, wish: str) -> str:
    """A process's reason to stop, if any; returns the one that all stop for, or ''."""
    self._question += 1
    if self._question < self._due:
      return ''
    client = jax_distributed.global_state.client
    if is_first():
      wishes = client.key_value_dir_get(f'{self._key}/wishes/')
      question, then = self._decided
      self._decided = self._question, time.monotonic()
      pace = (self._question - question) / max(self._decided[1] - then, 1e-3)
      due = self._question + max(1, round(pace * PERIOD_SECONDS))
      decision = next((each for _, each in wishes), wish), due
      client.key_value_set(f'{self._key}/{self._question}', json.dumps(decision))
    elif wish:
      own = jax_distributed.global_state.process_id
      client.key_value_set(f'{self._key}/wishes/{own}', wish, allow_overwrite=True)
    decision = client.blocking_key_value_get(f'{self._key}/{self._question}', NO_LIMIT_MS)
    wish, self._due = json.loads(decision)
    return wish


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
  jax.config.update('jax_enable_preemption_service', False)  # it takes SIGTERM, which is for `preemption`
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
      f'--distributed: cannot start at {jax_distributed.global_state.coordinator_address} ({reason}): '
      'expected a free port there'
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
    tell(NOT_FOUND.format(jax_distributed.global_state.coordinator_address), sys.__stderr__)
    os._exit(1)
  host, _, port = jax_distributed.global_state.coordinator_address.rpartition(':')
  try:
    socket.create_connection((host, int(port)), timeout=2).close()
  except OSError:
    tell(LOST.format(0), sys.__stderr__)
    os._exit(1)
  os._exit(128 + signal.SIGABRT)


class Watchdog:
  """Sees that the processes end together; from when it is made, in threads of its own.

  One thread talks to the coordinator, which may take long to answer or never do; another looks at the clock.
  """

  def __init__(self):
    self._client = jax_distributed.global_state.client
    self._own = jax_distributed.global_state.process_id
    self._others = range(1, num_processes()) if is_first() else range(1)
    self._heard = dict.fromkeys(self._others, time.monotonic())
    self._ended: dict[int, tuple[int, str]] = {}  # the exit status and the error of a process that has ended
    self._farewell: tuple[int, str] | None = None  # our own
    self._told = threading.Event()  # the others can read it
    self._stop = threading.Event()
    self._ending = threading.Lock()
    self._threads = [threading.Thread(target=each, daemon=True) for each in (self._talk, self._watch)]
    for thread in self._threads:
      thread.start()

  def finish(self) -> None:
    """Waits for all to have come here, and disconnects."""
    self._farewell = 0, ''
    self._client.wait_at_barrier('moonshine_jax/finish', NO_LIMIT_MS)
    self._stop.set()
    for thread in self._threads:
      thread.join()
    jax.distributed.shutdown()

  def end(self, status: int, message: str) -> None:
    """Ends this process with its error, which it prints unless the first has met the same, and so all others."""
    self._ending.acquire()  # and keeps it: only one thread ends the process
    self._farewell = status, message
    if is_first():
      tell(message, sys.__stderr__)
      self._wait(lambda: all(each in self._ended for each in self._others if each not in self._lost()))
      time.sleep(2 * PERIOD_SECONDS)  # for them to exit: with this process the coordinator goes, and JAX aborts them
    else:
      self._wait(lambda: self._ended)
      if self._ended.get(0) != self._farewell:
        tell(message, sys.__stderr__)
    self._wait(self._told.is_set)
    os._exit(status)

  def _wait(self, condition: Callable[[], Any]) -> None:
    limit = time.monotonic() + GRACE_SECONDS
    while not condition() and time.monotonic() < limit:
      time.sleep(PERIOD_SECONDS / 10)

  def _lost(self) -> list[int]:
    now = time.monotonic()
    return [each for each in self._others if each not in self._ended and now - self._heard[each] > SILENCE_SECONDS]

  def _talk(self) -> None:
    """Renews our key and reads those of the others."""
    keys = 'moonshine_jax/process'
    beats: dict[str, str] = {}
    for beat in itertools.count():
      farewell = self._farewell
      with contextlib.suppress(Exception):  # the coordinator is gone, as `_watch` sees by the silence
        self._client.key_value_set(f'{keys}/{self._own}/beat', str(beat), allow_overwrite=True)
        if farewell:
          self._client.key_value_set(f'{keys}/{self._own}/end', json.dumps(farewell), allow_overwrite=True)
          self._told.set()
        for key, value in self._client.key_value_dir_get(f'{keys}/' if is_first() else f'{keys}/0/'):
          each, kind = int(key.split('/')[-2]), key.split('/')[-1]
          if each in self._others and kind == 'end':
            self._ended[each] = tuple(json.loads(value))
          elif each in self._others and beats.get(each) != value:
            beats[each], self._heard[each] = value, time.monotonic()
      if self._stop.wait(PERIOD_SECONDS):
        return

  def _watch(self) -> None:
    while not self._stop.wait(PERIOD_SECONDS / 2):
      if lost := self._lost():
        self.end(1, LOST.format(lost[0]))
      for each, (status, message) in list(self._ended.items()):
        if status not in (0, RESUME_ME):
          if is_first():
            self.end(status, f'process {each}: {message}')
          self._leave_silently(status, message)

  def _leave_silently(self, status: int, message: str) -> None:
    """The first process has told of an error."""
    with self._ending:
      self._farewell = status, message
      self._wait(self._told.is_set)
      os._exit(status)
