"""Equal formulations of one 2-D grouped convolution (NHWC images, HWIO kernels), each with both gradients.

A formulation is three plain functions. The operands come first, the static description last:

  forward(x, kernel, conv) -> y
  input_gradient(dy, kernel, x_shape, conv) -> dx
  weight_gradient(x, dy, kernel_shape, conv) -> dkernel

with x (N, H, W, C), kernel (KH, KW, C / groups, O), y and dy (N, H', W', O). All of them keep the dtype of their
operands, as `lax.conv_general_dilated` does, and accumulate in float32 or wider. `grouped_conv` chooses among them by
platform and shape; `benchmarks/grouped_conv.py` measures which is the fastest.

This module has what all formulations share, and the two shortest: XLA's convolution (`LAX`) and a matrix product for
1x1 kernels (`MATMUL`). `merged_conv` has dense convolutions over merged groups, `shifted_conv` a sum over the window.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

NHWC = ('NHWC', 'HWIO', 'NHWC')

Shape = tuple[int, ...]


class ConvSpec(NamedTuple):
  """The static part of a convolution, hashable: arguments of `lax.conv_general_dilated`, by the same names."""

  window_strides: tuple[int, ...]
  padding: tuple[tuple[int, int], ...]
  rhs_dilation: tuple[int, ...]
  feature_group_count: int
  precision: lax.PrecisionLike = None


class Formulation(NamedTuple):
  """One way to compute a convolution and its gradients; the signatures are in the module's docstring."""

  forward: Callable[..., jax.Array]
  input_gradient: Callable[..., jax.Array]
  weight_gradient: Callable[..., jax.Array]


def input_padding(x_shape: Shape, kernel_shape: Shape, dy_shape: Shape, conv: ConvSpec) -> tuple[tuple[int, int], ...]:
  """Returns the padding with which the reversed kernel brings dy, dilated by the strides, back to the size of x."""
  padding = []
  for size, k, out, stride, dilation, (low, _) in zip(
    x_shape[1:3], kernel_shape[:2], dy_shape[1:3], conv.window_strides, conv.rhs_dilation, conv.padding, strict=True
  ):
    before = dilated_extent(k, dilation) - 1 - low
    padding.append((before, size + dilated_extent(k, dilation) - 1 - dilated_extent(out, stride) - before))
  return tuple(padding)


def dilated_extent(size: int, dilation: int) -> int:
  """Returns how many pixels `size` of them span where they are `dilation` apart."""
  return (size - 1) * dilation + 1


def accumulation_dtype(dtype: Any) -> Any:
  """Returns the dtype in which sums of this dtype are accumulated: float32 or wider."""
  return jnp.promote_types(dtype, jnp.float32)


def lax_forward(x: jax.Array, kernel: jax.Array, conv: ConvSpec) -> jax.Array:
  """Computes the convolution by XLA's operation."""
  return lax.conv_general_dilated(x, kernel, dimension_numbers=NHWC, **conv._asdict())


def input_transpose(forward: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """Derives the input gradient: the transpose of a forward function, which is linear in x."""

  def input_gradient(dy: jax.Array, kernel: jax.Array, x_shape: Shape, conv: ConvSpec) -> jax.Array:
    return jax.vjp(lambda x: forward(x, kernel, conv), jnp.zeros(x_shape, dy.dtype))[1](dy)[0]

  return input_gradient


def weight_transpose(forward: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """Derives the weight gradient: the transpose of a forward function, which is linear in the kernel."""

  def weight_gradient(x: jax.Array, dy: jax.Array, kernel_shape: Shape, conv: ConvSpec) -> jax.Array:
    return jax.vjp(lambda kernel: forward(x, kernel, conv), jnp.zeros(kernel_shape, x.dtype))[1](dy)[0]

  return weight_gradient


LAX = Formulation(lax_forward, input_transpose(lax_forward), weight_transpose(lax_forward))


def matmul_forward(x: jax.Array, kernel: jax.Array, conv: ConvSpec) -> jax.Array:
  """Computes a 1x1 convolution of one group, without padding, as a matrix product; strides leave out pixels."""
  row, column = conv.window_strides
  return lax.dot_general(x[:, ::row, ::column], kernel[0, 0], (((3,), (0,)), ((), ())), precision=conv.precision)


def matmul_weight_gradient(x: jax.Array, dy: jax.Array, kernel_shape: Shape, conv: ConvSpec) -> jax.Array:
  """Computes the weight gradient of a 1x1 convolution as the sum of one matrix product for each image.

  For a single product over the whole batch, XLA:CPU would transpose the batch in memory first.
  """
  row, column = conv.window_strides
  x, dy = (pixels.reshape(len(pixels), -1, pixels.shape[3]) for pixels in (x[:, ::row, ::column], dy))
  products = lax.dot_general(
    x, dy, (((1,), (1,)), ((0,), (0,))), precision=conv.precision, preferred_element_type=accumulation_dtype(x.dtype)
  )
  return products.sum(0).astype(x.dtype).reshape(kernel_shape)


MATMUL = Formulation(matmul_forward, input_transpose(matmul_forward), matmul_weight_gradient)
