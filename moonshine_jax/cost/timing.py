"""Timing that a shared machine disturbs least: candidates take turns, and the median of their times counts."""

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax

Name = TypeVar('Name', int, str)


def time_compiled(
  functions: Mapping[str, Callable], args: Sequence[Any], repeats: int, give_up: float = 8.0, calls: int = 1
) -> dict[str, tuple[float, float]]:
  """Times compiled functions of JAX arrays in turns.

  Args:
    functions: by name; each is called once before any timing.
    args: what all functions are called with.
    repeats: how many times each function is timed, in turns.
    give_up: a function whose first time was more than this many times the fastest one's is timed only once.
    calls: how many calls are timed together: an accelerator runs behind the host, which need not wait for each.

  Returns:
    For each name the median and the minimum of its times, in milliseconds of one call.
  """
  all_seconds: dict[str, list[float]] = {}
  for name, function in functions.items():
    jax.block_until_ready(function(*args))
    all_seconds[name] = [_time_calls(function, args, calls)]
  fastest = min(seconds[0] for seconds in all_seconds.values())
  for _ in range(repeats - 1):
    for name, seconds in all_seconds.items():
      if seconds[0] <= give_up * fastest:
        seconds.append(_time_calls(functions[name], args, calls))
  return {name: (1e3 * statistics.median(seconds), 1e3 * min(seconds)) for name, seconds in all_seconds.items()}


def time_in_turns(calls: Mapping[Name, Callable[[], Any]], repeats: int) -> dict[Name, list[float]]:
  """Times calls that take turns, in an order that is drawn anew for each turn.

  What ran before leaves caches, freed memory and threads behind: 10% of a train step on a CPU. In a fixed order that
  would always fall to the same call. The orders are the same in every run.

  Args:
    calls: by name, functions without arguments that return when their work is done; each is called twice before any
      timing.
    repeats: how many times each call is timed.

  Returns:
    For each name its times in seconds, in order.
  """
  rng = random.Random(0)
  for call in calls.values():
    call()
    call()
  all_seconds: dict[Name, list[float]] = {name: [] for name in calls}
  for _ in range(repeats):
    for name in rng.sample(sorted(calls), len(calls)):
      start = time.perf_counter()
      calls[name]()
      all_seconds[name].append(time.perf_counter() - start)
  return all_seconds


def _time_calls(function: Callable, args: Sequence[Any], calls: int) -> float:
  """Returns the seconds that a call of a compiled function takes, of several that are waited for together."""
  start = time.perf_counter()
  jax.block_until_ready([function(*args) for _ in range(calls)])
  return (time.perf_counter() - start) / calls
