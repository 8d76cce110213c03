"""A watchdog that notices a lost process, and ends the processes of a run together.

JAX notices a lost process after minutes, and then aborts. So the first process watches all others, and these watch the
first: every process renews a key in the coordinator's key-value store. How a process ends is a key too: the first
process prints the error of any process, which ends all of them with its exit status.
"""

import contextlib
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
from jax._src import distributed as jax_distributed

from moonshine_jax.errors import RESUME_ME, tell
from moonshine_jax.runtime.exchange import NO_LIMIT_MS, PERIOD_SECONDS, is_first, num_processes

SILENCE_SECONDS = 20.0  # without a renewal, after which a process is lost
GRACE_SECONDS = 10.0  # for which a process that ends waits for the others to hear of it
LOST = (
  'process {} has ended or does not answer: see its output; the same command on all processes goes on from the '
  'newest checkpoint'
)


class Watchdog:
  """A watchdog over the processes of a run, in two threads, which start when it is made.

  One thread talks to the coordinator, which may take long to answer or never do; the other looks at the clock.
  """

  def __init__(self) -> None:
    client = jax_distributed.global_state.client
    assert client is not None  # this process is connected
    self._client = client
    self._process_id = jax_distributed.global_state.process_id
    self._others = range(1, num_processes()) if is_first() else range(1)
    self._last_heard = dict.fromkeys(self._others, time.monotonic())
    self._ended: dict[int, tuple[int, str]] = {}  # the exit status and the error of a process that has ended
    self._farewell: tuple[int, str] | None = None  # this process's exit status and error, once it ends
    self._farewell_told = threading.Event()  # the others can read it
    self._stop = threading.Event()
    self._ending = threading.Lock()
    self._threads = [threading.Thread(target=loop, daemon=True) for loop in (self._talk, self._watch)]
    for thread in self._threads:
      thread.start()

  def finish(self) -> None:
    """Waits until all processes have finished, and disconnects."""
    self._farewell = 0, ''
    self._client.wait_at_barrier('moonshine_jax/finish', NO_LIMIT_MS)
    self._stop.set()
    for thread in self._threads:
      thread.join()
    jax.distributed.shutdown()

  def end(self, status: int, message: str) -> None:
    """Ends this process with an error, and with it all others.

    The process prints the error unless the first one has printed the same.

    Args:
      status: exit status.
      message: the error.
    """
    self._ending.acquire()  # and never released: only one thread ends the process
    self._farewell = status, message
    if is_first():
      tell(message, sys.__stderr__)
      self._wait(lambda: all(other in self._ended for other in self._others if other not in self._lost()))
      # For the others to exit: the coordinator goes with this process, and JAX aborts those that are still there.
      time.sleep(2 * PERIOD_SECONDS)
    else:
      self._wait(lambda: self._ended)
      if self._ended.get(0) != self._farewell:
        tell(message, sys.__stderr__)
    self._wait(self._farewell_told.is_set)
    os._exit(status)

  def _wait(self, condition: Callable[[], Any]) -> None:
    """Waits for a condition, for at most GRACE_SECONDS."""
    limit = time.monotonic() + GRACE_SECONDS
    while not condition() and time.monotonic() < limit:
      time.sleep(PERIOD_SECONDS / 10)

  def _lost(self) -> list[int]:
    """Returns the processes that have been silent for too long."""
    oldest = time.monotonic() - SILENCE_SECONDS
    return [other for other in self._others if other not in self._ended and self._last_heard[other] < oldest]

  def _talk(self) -> None:
    """Renews the key of this process and reads those of the others."""
    keys = 'moonshine_jax/process'
    beats: dict[int, str] = {}
    for beat in itertools.count():
      farewell = self._farewell
      with contextlib.suppress(Exception):  # the coordinator is gone, as `_watch` sees by the silence
        self._client.key_value_set(f'{keys}/{self._process_id}/beat', str(beat), allow_overwrite=True)
        if farewell:
          self._client.key_value_set(f'{keys}/{self._process_id}/end', json.dumps(farewell), allow_overwrite=True)
          self._farewell_told.set()
        for key, value in self._client.key_value_dir_get(f'{keys}/' if is_first() else f'{keys}/0/'):
          other, kind = int(key.split('/')[-2]), key.split('/')[-1]
          if other in self._others and kind == 'end':
            self._ended[other] = tuple(json.loads(value))
          elif other in self._others and beats.get(other) != value:
            beats[other], self._last_heard[other] = value, time.monotonic()
      if self._stop.wait(PERIOD_SECONDS):
        return

  def _watch(self) -> None:
    """Ends this process when another is lost or has ended with an error."""
    while not self._stop.wait(PERIOD_SECONDS / 2):
      if lost := self._lost():
        self.end(1, LOST.format(lost[0]))
      for other, (status, message) in list(self._ended.items()):
        if status not in (0, RESUME_ME):
          if is_first():
            self.end(status, f'process {other}: {message}')
          self._leave_silently(status, message)

  def _leave_silently(self, status: int, message: str) -> None:
    """Ends this process without a word: the first one has printed the error."""
    with self._ending:
      self._farewell = status, message
      self._wait(self._farewell_told.is_set)
      os._exit(status)
