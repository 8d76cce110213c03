"""Reductions over the replicas that share a batch, for the losses that depend on the whole of it."""

import jax
from jax import lax


def mean_over_replicas(values: jax.Array, axis_name: str | None) -> jax.Array:
  """Returns the mean over the replicas; the values themselves where there is one."""
  return values if axis_name is None else lax.pmean(values, axis_name)


def largest_over_replicas(values: jax.Array, axis_name: str | None) -> jax.Array:
  """Returns the largest of the replicas' values, element by element; a constant."""
  values = lax.stop_gradient(values)
  return values if axis_name is None else lax.pmax(values, axis_name)


def all_of_replicas(values: jax.Array, axis_name: str | None) -> jax.Array:
  """Returns the values (batch, ...) of all replicas, one after another along the first axis."""
  return values if axis_name is None else lax.all_gather(values, axis_name, tiled=True)
