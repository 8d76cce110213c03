"""The settings of JAX that change what a program computes: they are recorded with a run, and hold until its end."""

from typing import Any

import jax

# Of the arithmetic and of the random numbers. What changes speed alone, or only raises errors, is not among them.
NAMES = (
  'jax_default_matmul_precision',
  'jax_default_prng_impl',
  'jax_enable_x64',
  'jax_random_seed_offset',
  'jax_threefry_partitionable',
)


def current_settings() -> dict[str, Any]:
  """Returns the values now, by the names that they have in `jax.config`, as values for JSON."""
  return {name: getattr(jax.config, name) for name in NAMES}


def describe_changes(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
  """Returns in words where two settings differ, in what both have; empty where they are the same."""
  return ', '.join(
    f'{name.upper()}={ours[name]} (there: {theirs[name]})'
    for name in NAMES
    if name in ours and name in theirs and ours[name] != theirs[name]
  )
