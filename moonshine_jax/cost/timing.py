"""Timing that a shared machine disturbs least: candidates take turns, and the median of their times counts."""

import random
import statistics
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from moonshine_jax.models.network import Network


def interleaved(functions, args, repeats, give_up=8.0):
  """Milliseconds a call, by name: {name: (median, minimum)}.

  Args:
    functions: {name: a function of args}; each is compiled, and called once before any timing.
    args: what all of them are called with.
    repeats: how many times each is timed, in turns.
    give_up: a function whose first call took more than this many times the fastest one's is timed once, not again.

  Returns:
    For each name the median and the minimum of its times.
  """
  compiled = {name: jax.jit(function).lower(*args).compile() for name, function in functions.items()}
  times = {name: [] for name in functions}
  for name in functions:
    jax.block_until_ready(compiled[name](*args))
    times[name].append(_time(compiled[name], args))
  fastest = min(first for (first,) in times.values())
  for _ in range(repeats - 1):
    for name, seen in times.items():
      if seen[0] <= give_up * fastest:
        seen.append(_time(compiled[name], args))
  return {name: (1e3 * statistics.median(seen), 1e3 * min(seen)) for name, seen in times.items()}


def in_turns(calls, repeats):
  """Seconds that each call takes.

  Args:
    calls: {name: a function of nothing that returns when its work is done}; each is called twice before any timing.
    repeats: how many times each is timed, in turns. The order of each turn is drawn anew (and the same in every run):
      what ran before leaves caches, freed memory and threads behind, 10% of a train step on a CPU, and in a fixed
      order always to the same one.

  Returns:
    {name: the times, in order}.
  """
  rng = random.Random(0)
  for call in calls.values():
    call()
    call()
  times = {name: [] for name in calls}
  for _ in range(repeats):
    for name in rng.sample(sorted(calls), len(calls)):
      start = time.perf_counter()
      calls[name]()
      times[name].append(time.perf_counter() - start)
  return times


def compile_forward(network: Network, image_shape: Sequence[int], batch: int) -> Callable[[int], None]:
  """The forward pass in evaluation mode, from uint8 images to logits, compiled for one device.

  Args:
    network: with any mean and std, on which no time depends; its variables are initial ones, likewise.
    image_shape: (height, width, channels).
    batch: images in a call.

  Returns:
    A function of a number of calls, that calls the network so often and waits for the last logits.
  """
  variables = network.init(jax.random.key(0), image_shape)
  images = jax.random.randint(jax.random.key(1), (batch, *image_shape), 0, 256).astype(jnp.uint8)
  forward = (
    jax.jit(lambda variables, images: network(variables, images, train=False)[0]).lower(variables, images).compile()
  )

  def run(calls):
    for _ in range(calls):
      logits = forward(variables, images)
    logits.block_until_ready()

  return run


def _time(function, args):
  start = time.perf_counter()
  jax.block_until_ready(function(*args))
  return time.perf_counter() - start
