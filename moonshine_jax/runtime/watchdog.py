"""Notices a lost process, and ends the processes of a run together.

JAX notices a lost process after minutes, and then aborts. So the first process watches all others, and these watch the
first, by keys that each renews in the coordinator's key-value store. How a process ends is a key too: an error in one
is told by the first, and ends all with its exit status.
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

SILENCE_SECONDS = 20.0  # without one, after which a process is lost
GRACE_SECONDS = 10.0  # that a process which ends waits for the others to hear of it
LOST = (
  'process {} has ended or does not answer: see its output; the same command on all processes goes on from the '
  'newest checkpoint'
)


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
