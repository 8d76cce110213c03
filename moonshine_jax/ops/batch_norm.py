"""Batch normalisation and ReLU as one operation that passes over memory as few times as it can.

Memory binds the training of these networks, and nearly half of what a step moves is moved here (8 of 17 passes over the
activations of `S`, as `benchmarks/roofline.py` counts). Autodiff of a normalisation keeps its intermediate values
(x - mean, the input of ReLU) and reads them again. This operation keeps the input and four vectors, and computes all
else again in registers:

  forward    read x for the statistics; read x and write y
  backward   read x and dy for two sums over each channel; read x and dy and write dx
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from moonshine_jax.ops.derivatives import is_forward_mode, reverse_mode_alone


def batch_norm_relu(
  x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Computes y = relu((x - mean) / sqrt(variance + epsilon) * scale + bias) with the statistics of the batch.

  Reverse mode differentiates y with respect to x, scale and bias, through the statistics too; forward mode does inside
  `derivatives.forward_mode`. The returned statistics are for the running averages alone, and pass no gradient.

  Args:
    x: (..., channels); statistics are taken over all axes but the last.
    scale: float32 (channels,).
    bias: float32 (channels,).
    epsilon: added to the variance.
    axis_name: the pmapped axis whose replicas share their statistics, or None.

  Returns:
    y, of the shape and dtype of x; the mean and the (biased) variance, float32 (channels,).
  """
  if is_forward_mode():
    y, mean, variance = _forward(x, scale, bias, epsilon, axis_name)[0]
    return y, lax.stop_gradient(mean), lax.stop_gradient(variance)
  with reverse_mode_alone():
    return _batch_norm_relu(x, scale, bias, epsilon, axis_name)


def normalise_relu(
  x: jax.Array, mean: jax.Array, variance: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> jax.Array:
  """Computes relu((x - mean) / sqrt(variance + epsilon) * scale + bias) with given statistics, as in evaluation.

  Args:
    x: (..., channels).
    mean: float32 (channels,).
    variance: float32 (channels,).
    scale: float32 (channels,).
    bias: float32 (channels,).
    epsilon: added to the variance.

  Returns:
    y, of the shape and dtype of x.
  """
  wide = x.astype(jnp.float32)
  return jax.nn.relu((wide - mean) * (lax.rsqrt(variance + epsilon) * scale) + bias).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _batch_norm_relu(
  x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
  return _forward(x, scale, bias, epsilon, axis_name)[0]


def _forward(
  x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, ...]]:
  wide = x.astype(jnp.float32)
  mean, square = _over_replicas((_channel_mean(wide), _channel_mean(jnp.square(wide))), axis_name)
  variance = jnp.maximum(square - jnp.square(mean), 0)  # below 0 by rounding alone
  y = normalise_relu(x, mean, variance, scale, bias, epsilon)
  return (y, mean, variance), (x, mean, variance, scale, bias)


def _backward(
  epsilon: float, axis_name: str | None, residuals: tuple[jax.Array, ...], cotangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
  x, mean, variance, scale, bias = residuals
  reciprocal = lax.rsqrt(variance + epsilon)
  normalised = (x.astype(jnp.float32) - mean) * reciprocal
  _, relu_transpose = jax.vjp(jax.nn.relu, normalised * scale + bias)
  (dy,) = relu_transpose(cotangents[0].astype(jnp.float32))
  dbias, dscale = _channel_mean(dy), _channel_mean(dy * normalised)
  # The statistics take from dx its mean over the whole batch and its component along x.
  mean_dbias, mean_dscale = _over_replicas((dbias, dscale), axis_name)
  dx = reciprocal * scale * (dy - mean_dbias - normalised * mean_dscale)
  pixels = x.size // x.shape[-1]
  return dx.astype(x.dtype), pixels * dscale, pixels * dbias


_batch_norm_relu.defvjp(_forward, _backward)


def _channel_mean(x: jax.Array) -> jax.Array:
  return x.mean(tuple(range(x.ndim - 1)))


def _over_replicas(tree: Any, axis_name: str | None) -> Any:
  return tree if axis_name is None else lax.pmean(tree, axis_name)
