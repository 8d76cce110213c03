"""Grouped convolution as a loop of dense convolutions over groups that are merged block-diagonally.

Two facts about XLA:CPU (jax 0.10) shape this module. A convolution's gradients, as JAX transposes them, have operands
in permuted layouts; inside a while loop (`lax.scan`) XLA:CPU does not bring those into the one layout that its fast
convolution takes, and runs naive loops: 36 times slower for the input gradient (32 channels at 32x32), 120 for the
weight gradient. So both gradients are written out here as plain NHWC, HWIO convolutions, and they cost the same
everywhere. And naive loops run the weight gradient of every grouped convolution that is not depthwise, inside a while
loop or not: up to 1,300 times slower than the one of this module.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from moonshine_jax.ops.formulations import (
  NHWC,
  ConvSpec,
  Formulation,
  Shape,
  dilated_extent,
  input_padding,
  lax_forward,
)
from moonshine_jax.ops.platforms import apart


def dense_input_gradient(dy: jax.Array, kernel: jax.Array, x_shape: Shape, conv: ConvSpec) -> jax.Array:
  """Computes the input gradient of one group.

  It is dy, dilated by the strides, convolved with the reversed kernel, whose input and output channels change places.
  """
  return lax.conv_general_dilated(
    dy,
    jnp.flip(kernel, (0, 1)).transpose(0, 1, 3, 2),
    (1, 1),
    input_padding(x_shape, kernel.shape, dy.shape, conv),
    lhs_dilation=conv.window_strides,
    rhs_dilation=conv.rhs_dilation,
    dimension_numbers=NHWC,
    precision=conv.precision,
  )


def dense_weight_gradient(x: jax.Array, dy: jax.Array, kernel_shape: Shape, conv: ConvSpec) -> jax.Array:
  """Of one group, x and dy already transposed to (C, H, W, N) and (H', W', N, O).

  The channels are the batch, the batch is what is summed over, dy is the kernel, and the output is as large as the
  kernel; strides and dilation change places. Returns (C, KH, KW, O).
  """
  padding = [
    (low, dilated_extent(k, dilation) + dilated_extent(out, stride) - 1 - size - low)
    for size, k, out, stride, dilation, (low, _) in zip(
      x.shape[1:3], kernel_shape[:2], dy.shape[:2], conv.window_strides, conv.rhs_dilation, conv.padding, strict=True
    )
  ]
  return lax.conv_general_dilated(
    x,
    dy,
    conv.rhs_dilation,
    padding,
    rhs_dilation=conv.window_strides,
    dimension_numbers=NHWC,
    precision=conv.precision,
  )


def merged_forward(x: jax.Array, kernel: jax.Array, conv: ConvSpec, blocks: int) -> jax.Array:
  """Runs `blocks` dense convolutions, each over groups / blocks neighbouring groups with zeros between them."""
  kernels = jnp.split(merge(kernel, conv.feature_group_count, blocks), blocks, axis=3)
  one_group = conv._replace(feature_group_count=1)
  return jnp.concatenate(
    [lax_forward(*operands, one_group) for operands in zip(_split(x, blocks), kernels, strict=True)], axis=3
  )


def merged_input_gradient(dy: jax.Array, kernel: jax.Array, x_shape: Shape, conv: ConvSpec, blocks: int) -> jax.Array:
  """Computes the input gradient of `merged_forward`, block by block."""
  kernels = jnp.split(merge(kernel, conv.feature_group_count, blocks), blocks, axis=3)
  return jnp.concatenate(
    [dense_input_gradient(*operands, x_shape, conv) for operands in zip(_split(dy, blocks), kernels, strict=True)],
    axis=3,
  )


def merged_weight_gradient(x: jax.Array, dy: jax.Array, kernel_shape: Shape, conv: ConvSpec, blocks: int) -> jax.Array:
  """Computes the weight gradient of `merged_forward`, block by block."""
  # In two steps, the first of which moves whole pixels: at once, XLA:CPU would jump a whole image for each number.
  x, dy = (apart(images.transpose(1, 2, 0, 3), 'cpu') for images in (x, dy))
  pairs = zip(jnp.split(x.transpose(3, 0, 1, 2), blocks), _split(dy, blocks), strict=True)
  dkernel = jnp.concatenate([dense_weight_gradient(*pair, kernel_shape, conv) for pair in pairs], axis=3)
  return unmerge(dkernel.transpose(1, 2, 0, 3), conv.feature_group_count, blocks)


@functools.cache
def merged(blocks: int) -> Formulation:
  """Returns the formulation in `blocks` blocks, a divisor of the number of groups; one block is a dense convolution."""
  return Formulation(
    *(functools.partial(f, blocks=blocks) for f in (merged_forward, merged_input_gradient, merged_weight_gradient))
  )


def number_of_blocks(channels: int, groups: int, least: int) -> int:
  """Returns the most blocks, up to 16, of whole groups and at least `least` channels; 1 for fewer channels."""
  return max(n for n in range(1, 17) if groups % n == 0 and (n == 1 or channels // n >= least))


def merge(kernel: jax.Array, groups: int, blocks: int) -> jax.Array:
  """Merges the groups of a kernel block-diagonally into fewer.

  Args:
    kernel: (KH, KW, I, O) in `groups` groups.
    groups: the number of groups.
    blocks: the number of groups afterwards, a divisor of `groups`.

  Returns:
    (KH, KW, I * groups / blocks, O) in `blocks` groups, zero between channels of different groups.
  """
  per_block = groups // blocks
  if per_block == 1:
    return kernel
  repeated = jnp.tile(kernel, (1, 1, per_block, 1))
  return jnp.where(_same_group(repeated.shape, groups, per_block), repeated, jnp.zeros((), kernel.dtype))


def unmerge(dkernel: jax.Array, groups: int, blocks: int) -> jax.Array:
  """Transposes `merge`: drops what lies between the groups."""
  per_block = groups // blocks
  if per_block == 1:
    return dkernel
  height, width, inputs, outputs = dkernel.shape
  dkernel = jnp.where(_same_group(dkernel.shape, groups, per_block), dkernel, jnp.zeros((), dkernel.dtype))
  return dkernel.reshape(height, width, per_block, inputs // per_block, outputs).sum(2)


def _same_group(shape: Shape, groups: int, per_block: int) -> jax.Array:
  """Returns (I, O): whether an input and an output channel of a merged kernel of this shape are of the same group."""
  _, _, inputs, outputs = shape
  return jnp.arange(inputs)[:, None] // (inputs // per_block) == jnp.arange(outputs) // (outputs // groups) % per_block


def _split(x: jax.Array, blocks: int) -> list[jax.Array]:
  return jnp.split(x, blocks, axis=3)
