"""The latency of networks in evaluation mode, compiled for one device of this machine."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from moonshine_jax.cost import timing
from moonshine_jax.models.network import Network

REPEATS = 15  # times that a latency is measured, after two calls that are not


def measure_network_latencies(
  networks: Sequence[tuple[Network, Sequence[int]]], repeats: int = REPEATS, batch: int = 1
) -> list[list[float]]:
  """Measures how long networks take from uint8 images to their logits, all of them taking turns.

  Args:
    networks: pairs of a network and the shape of its images, (height, width, channels). No latency depends on a
      network's mean and standard deviation.
    repeats: how many times each network is timed.
    batch: images in a call.

  Returns:
    For each network its latencies in seconds, in the order of their turns.
  """
  arrays: dict[tuple, jax.Array] = {}
  calls = {
    i: functools.partial(compile_forward(network, image_shape, batch, arrays), 1)
    for i, (network, image_shape) in enumerate(networks)
  }
  seconds = timing.time_in_turns(calls, repeats)
  return [seconds[i] for i in range(len(networks))]


def compile_forward(
  network: Network, image_shape: Sequence[int], batch: int, arrays: dict[tuple, jax.Array] | None = None
) -> Callable[[int], None]:
  """Compiles a network's forward pass in evaluation mode, from uint8 images to logits, for one device.

  Args:
    network: with any mean and standard deviation. The variables are initial ones. No time depends on either.
    image_shape: (height, width, channels).
    batch: images in a call.
    arrays: variables of networks before, by what they are and their shapes; those of this one are added, and of one
      kind and shape there is but one. So the networks that take turns fit into the memory.

  Returns:
    A function that takes a number of calls, calls the network so often, and waits for the last logits.
  """
  variables = network.init(jax.random.key(0), image_shape)
  if arrays is not None:
    variables = jax.tree.map_with_path(
      lambda keys, leaf: arrays.setdefault((keys[-1], leaf.shape, leaf.dtype), leaf), variables
    )
  images = jax.random.randint(jax.random.key(1), (batch, *image_shape), 0, 256).astype(jnp.uint8)

  def compute_logits(variables: Any, images: jax.Array) -> jax.Array:
    return network(variables, images, train=False)[0]

  forward = jax.jit(compute_logits).lower(variables, images).compile()

  def run(calls: int) -> None:
    for _ in range(calls):
      logits = forward(variables, images)
    logits.block_until_ready()

  return run
