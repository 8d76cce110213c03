"""Batch normalisation and ReLU as one operation that passes over memory as few times as it can.

Memory binds the training of these networks, and nearly half of what a step moves is moved here (8 of 17 passes over the
activations of `S`, as `benchmarks/roofline.py` counts). Autodiff of a normalisation keeps its intermediate values
(x - mean, the input of ReLU) and reads them again. This operation keeps the input and four vectors, and computes all
else again in registers:

  forward    read x for the statistics; read x and write y
  backward   read x and dy for two sums over each channel; read x and dy and write dx
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from moonshine_jax.ops.derivatives import is_forward_mode, reverse_mode_alone
from moonshine_jax.ops.platforms import apart, by_platform


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
  wide, pixels = x.astype(jnp.float32), _count_pixels(x, axis_name)
  sums = _sum_replicas(_channel_sums(wide, jnp.square(wide)), axis_name)

  def normalise(sums: jax.Array) -> jax.Array:
    return normalise_relu(x, *_mean_and_variance(sums, pixels), scale, bias, epsilon)

  y = _at_each_pixel(normalise, sums, x)
  return (y, *_mean_and_variance(sums, pixels)), (x, sums, scale, bias)


def _backward(
  epsilon: float, axis_name: str | None, residuals: tuple[jax.Array, ...], cotangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
  x, statistics, scale, bias = residuals
  pixels = _count_pixels(x, axis_name)

  def normalise(statistics: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns x normalised, dy before ReLU, and the reciprocal of the standard deviation."""
    mean, variance = _mean_and_variance(statistics, pixels)
    reciprocal = lax.rsqrt(variance + epsilon)
    normalised = (x.astype(jnp.float32) - mean) * reciprocal
    _, relu_transpose = jax.vjp(jax.nn.relu, normalised * scale + bias)
    return normalised, *relu_transpose(cotangents[0].astype(jnp.float32)), reciprocal

  def sum_gradients(statistics: jax.Array) -> jax.Array:
    normalised, dy, _ = normalise(statistics)
    return _channel_sums(dy, dy * normalised)

  def compute_dx(statistics: jax.Array) -> jax.Array:
    # The statistics take from dx its mean over the whole batch and its component along x.
    normalised, dy, reciprocal = normalise(statistics)
    mean_dbias, mean_dscale = _divide(total, pixels)
    return (reciprocal * scale * (dy - mean_dbias - normalised * mean_dscale)).astype(x.dtype)

  # What two kernels have in common XLA:GPU keeps in memory, though both have read all that it is computed from.
  sums = _at_each_pixel(sum_gradients, statistics, x)
  statistics, total = apart((statistics, _sum_replicas(sums, axis_name)), 'cuda')
  dx = _at_each_pixel(compute_dx, statistics, x)
  return dx, sums.imag, sums.real


_batch_norm_relu.defvjp(_forward, _backward)


def _channel_sums(a: jax.Array, b: jax.Array) -> jax.Array:
  """Sums two arrays (..., channels) over all axes but the last; returns the sums as the parts of complex (channels,).

  A sum over so many elements is two kernels to XLA:GPU. It has two for each of two real sums, and keeps in memory what
  the sums have in common, as the mask of ReLU; of one complex sum it has two, and keeps nothing.
  """
  return by_platform(a, b, cuda=_one_complex_sum, cpu=_two_products, default=_two_sums)


def _one_complex_sum(a: jax.Array, b: jax.Array) -> jax.Array:
  return lax.complex(a, b).sum(tuple(range(a.ndim - 1)))


def _two_sums(a: jax.Array, b: jax.Array) -> jax.Array:
  axes = tuple(range(a.ndim - 1))
  return lax.complex(a.sum(axes), b.sum(axes))


def _two_products(a: jax.Array, b: jax.Array) -> jax.Array:
  return lax.complex(_product_with_ones(a), _product_with_ones(b))


def _product_with_ones(a: jax.Array) -> jax.Array:
  """Sums (N, ..., channels) over all axes but the last: in each image a product of ones with the matrix of its pixels.

  Two to three times as fast on a CPU as a sum, which XLA makes windows of 32 of, and computes one number at a time.
  """
  images = a.reshape(len(a), -1, a.shape[-1])
  ones = jnp.ones(images.shape[:2], a.dtype)
  return lax.dot_general(ones, images, (((1,), (1,)), ((0,), (0,)))).sum(0)


def _sum_replicas(sums: jax.Array, axis_name: str | None) -> jax.Array:
  """Sums complex (channels,) over the replicas."""
  if axis_name is None:
    return sums
  return by_platform(
    sums,
    cuda=lambda sums: lax.psum(sums, axis_name),  # of the two parts XLA:GPU makes four kernels more
    default=lambda sums: lax.complex(*lax.psum((sums.real, sums.imag), axis_name)),
  )


def _count_pixels(x: jax.Array, axis_name: str | None) -> int:
  """Counts the pixels of x (..., channels), over all replicas."""
  return x.size // x.shape[-1] * (lax.axis_size(axis_name) if axis_name else 1)


def _divide(sums: jax.Array, pixels: int) -> tuple[jax.Array, jax.Array]:
  """Returns the two means from the two sums."""
  return sums.real / pixels, sums.imag / pixels


def _mean_and_variance(sums: jax.Array, pixels: int) -> tuple[jax.Array, jax.Array]:
  """Returns the mean and the variance from the sums of x and of its square."""
  mean, square = _divide(sums, pixels)
  return mean, jnp.maximum(square - jnp.square(mean), 0)  # below 0 by rounding alone


def _at_each_pixel(function: Callable[[jax.Array], Any], sums: jax.Array, x: jax.Array) -> Any:
  """Returns function(sums), the sums being complex (channels,); on a GPU, as if each pixel of x had its own.

  XLA:GPU makes a kernel of what depends on the channel alone, as 1 / sqrt(variance) does, though its launch takes
  longer than to compute it at every pixel: memory binds the kernels that do. So it is made to depend on x.
  """

  def of_pixels(sums: jax.Array, x: jax.Array) -> Any:
    zero = 0 * x.astype(jnp.float32)
    return function(sums + lax.complex(zero, zero))

  return by_platform(sums, x, cuda=of_pixels, default=lambda sums, _: function(sums))
