"""What the processes of one run tell each other.

The first process alone reads and writes the workdir, and prints. It shares what it reads by the devices, and small
things by the coordinator's key-value store, which JAX does not document: `watchdog` alone uses it beside this module.
"""

import itertools
import json
import pickle
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from jax._src import distributed as jax_distributed

from moonshine_jax.runtime.devices import Replicas

PERIOD_SECONDS = 1.0  # between renewals of a process's key
NO_LIMIT_MS = 2**31 - 1  # a wait that only the watchdog ends
T = TypeVar('T')
_exchanges = itertools.count()  # every process makes the same ones


def is_first() -> bool:
  """Whether this process reads and writes the workdir: the only one, or process 0."""
  return jax_distributed.global_state.process_id == 0


def num_processes() -> int:
  """How many there are; unlike JAX's own function, without touching a device."""
  return jax_distributed.global_state.num_processes


def coordinator_address() -> str:
  """Returns HOST:PORT of the coordinator, which is in process 0."""
  return jax_distributed.global_state.coordinator_address


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
    replicas.broadcast_from_first(data)
    return value
  size = int(client.blocking_key_value_get(key, NO_LIMIT_MS))
  return pickle.loads(replicas.broadcast_from_first(np.zeros(size, np.uint8)).tobytes())


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
