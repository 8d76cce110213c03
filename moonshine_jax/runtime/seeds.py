"""The random keys that follow from a seed."""

import jax


def split_seed(seed: int) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns the keys of the initial parameters, of the order of the examples, and of their augmentation."""
  init_key, order_key, step_key = jax.random.split(jax.random.key(seed), 3)
  return init_key, order_key, step_key
