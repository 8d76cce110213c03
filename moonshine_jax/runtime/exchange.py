"""Messages between the processes of a run.

Only the first process reads and writes the workdir, and prints. What it reads it shares through the devices, and small
things through the coordinator's key-value store. JAX does not document the store; `watchdog` is the only other module
that uses it.
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
_exchange_numbers = itertools.count()  # every process makes the same exchanges, in the same order


def is_first() -> bool:
  """Returns whether this process reads and writes the workdir: it is the only one, or process 0."""
  return jax_distributed.global_state.process_id == 0


def num_processes() -> int:
  """Returns the number of processes, without touching a device as `jax.process_count` does."""
  return jax_distributed.global_state.num_processes


def coordinator_address() -> str:
  """Returns the address of the coordinator, which is in process 0, as HOST:PORT."""
  return str(jax_distributed.global_state.coordinator_address)  # None before this process looks for it


def from_first(function: Callable[[], T], replicas: Replicas) -> T:
  """Calls a function in the first process only, and returns its result in all processes.

  Args:
    function: called without arguments; its result can be pickled.
    replicas: the devices of all processes, through which the result is shared.
  """
  if num_processes() == 1:
    return function()
  key = f'moonshine_jax/exchange/{next(_exchange_numbers)}'
  client = jax_distributed.global_state.client
  assert client is not None  # there are several processes
  # The others wait for the size in the store, however long that takes: the first exchange of the devices must end
  # within seconds.
  if is_first():
    value = function()
    data = np.frombuffer(pickle.dumps(value), np.uint8)
    client.key_value_set(key, str(data.size))
    replicas.broadcast_from_first(data)
    return value
  size = int(client.blocking_key_value_get(key, NO_LIMIT_MS))
  return pickle.loads(replicas.broadcast_from_first(np.zeros(size, np.uint8)).tobytes())


def first_before_others(function: Callable[[], T]) -> T:
  """Calls a function in the first process, then in the others, which find what the first has left on a disk.

  Args:
    function: called without arguments.

  Returns:
    What it returns in this process.
  """
  if num_processes() == 1:
    return function()
  key = f'moonshine_jax/exchange/{next(_exchange_numbers)}'
  client = jax_distributed.global_state.client
  assert client is not None  # there are several processes
  if not is_first():
    client.blocking_key_value_get(key, NO_LIMIT_MS)
    return function()
  value = function()
  client.key_value_set(key, '')
  return value


class Agreement:
  """A decision of all processes to stop at the same step, some seconds after one of them wishes to.

  All processes ask equally often, and get the same answer to the same question. The first process decides about once a
  second, and says with each decision at which question the next one is due. JAX has
  `multihost_utils.reached_preemption_sync_point` for this, but a signal to a process was seen to have no effect.
  """

  def __init__(self) -> None:
    self._key = f'moonshine_jax/agreement/{next(_exchange_numbers)}'
    self._question = 0  # number of the last question
    self._due = 1  # question at which the next decision is due
    self._last_decision = 0, time.monotonic()  # its question, and when it was made

  def __call__(self, wish: str) -> str:
    """Asks whether to stop.

    Args:
      wish: why this process wishes to stop; '' where it does not.

    Returns:
      Why all processes stop now; '' where they go on.
    """
    self._question += 1
    if self._question < self._due:
      return ''
    client = jax_distributed.global_state.client
    assert client is not None  # there are several processes
    if is_first():
      wishes = client.key_value_dir_get(f'{self._key}/wishes/')
      last_question, last_time = self._last_decision
      self._last_decision = self._question, time.monotonic()
      questions_per_second = (self._question - last_question) / max(self._last_decision[1] - last_time, 1e-3)
      due = self._question + max(1, round(questions_per_second * PERIOD_SECONDS))
      decision = next((other for _, other in wishes), wish), due
      client.key_value_set(f'{self._key}/{self._question}', json.dumps(decision))
    elif wish:
      process_id = jax_distributed.global_state.process_id
      client.key_value_set(f'{self._key}/wishes/{process_id}', wish, allow_overwrite=True)
    decision = client.blocking_key_value_get(f'{self._key}/{self._question}', NO_LIMIT_MS)
    wish, self._due = json.loads(decision)
    return wish
