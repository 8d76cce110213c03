"""Equal formulations of one 2-D grouped convolution (NHWC images, HWIO kernels), each with both gradients.

A formulation is three plain functions, all with the operands first and the static description last:

  forward(x, kernel, conv) -> y
  input_gradient(dy, kernel, x_shape, conv) -> dx
  weight_gradient(x, dy, kernel_shape, conv) -> dkernel

with x (N, H, W, C), kernel (KH, KW, C / groups, O), y and dy (N, H', W', O). All of them keep the dtype of their
operands, as `lax.conv_general_dilated` does, and accumulate in float32 or wider. Which one is fastest where is the
business of `grouped_conv`, and `benchmarks/grouped_conv.py` measures it.

Two facts about XLA:CPU (jax 0.10) shape what is here. A convolution's gradients, as JAX transposes them, have
operands in permuted layouts; inside a while loop (`lax.scan`) XLA:CPU does not bring those into the one layout that
its fast convolution takes, and runs naive loops: 36 times slower for the input gradient (32 channels at 32x32), 120
for the weight gradient. So `merged` writes both out as plain NHWC, HWIO convolutions, and they cost the same
everywhere. And naive loops run the weight gradient of every grouped convolution that is not depthwise, inside a
while loop or not: up to 1,300 times slower than `merged`.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

NHWC = ('NHWC', 'HWIO', 'NHWC')


class Conv(NamedTuple):
  """What is static in a convolution, hashable: as the arguments of `lax.conv_general_dilated` of these names."""

  window_strides: tuple[int, int]
  padding: tuple[tuple[int, int], tuple[int, int]]
  rhs_dilation: tuple[int, int]
  feature_group_count: int
  precision: object = None


class Formulation(NamedTuple):
  """One way to compute a convolution and its gradients; the signatures are in the module's docstring."""

  forward: Callable
  input_gradient: Callable
  weight_gradient: Callable


# XLA's own -----------------------------------------------------------------------------------------------------------


def lax_forward(x, kernel, conv):
  return lax.conv_general_dilated(x, kernel, dimension_numbers=NHWC, **conv._asdict())


def input_transpose(forward):
  """The input gradient as the transpose of a forward function, which is linear in x."""

  def input_gradient(dy, kernel, x_shape, conv):
    return jax.vjp(lambda x: forward(x, kernel, conv), jnp.zeros(x_shape, dy.dtype))[1](dy)[0]

  return input_gradient


def weight_transpose(forward):
  """The weight gradient as the transpose of a forward function, which is linear in the kernel."""

  def weight_gradient(x, dy, kernel_shape, conv):
    return jax.vjp(lambda kernel: forward(x, kernel, conv), jnp.zeros(kernel_shape, x.dtype))[1](dy)[0]

  return weight_gradient


LAX = Formulation(lax_forward, input_transpose(lax_forward), weight_transpose(lax_forward))


# Dense convolutions, every one in the layout that XLA:CPU runs fast --------------------------------------------------


def dense_input_gradient(dy, kernel, x_shape, conv):
  """Of one group: dy, dilated by the strides, convolved with the reversed kernel, its channels exchanged."""
  return lax.conv_general_dilated(
    dy,
    jnp.flip(kernel, (0, 1)).transpose(0, 1, 3, 2),
    (1, 1),
    _input_padding(x_shape, kernel.shape, dy.shape, conv),
    lhs_dilation=conv.window_strides,
    rhs_dilation=conv.rhs_dilation,
    dimension_numbers=NHWC,
    precision=conv.precision,
  )


def dense_weight_gradient(x, dy, kernel_shape, conv):
  """Of one group, x and dy already transposed to (C, H, W, N) and (H', W', N, O).

  The channels are the batch, the batch is what is summed over, dy is the kernel, and the output is as large as the
  kernel; strides and dilation change places. Returns (C, KH, KW, O).
  """
  padding = [
    (low, _extent(k, dilation) + _extent(out, stride) - 1 - size - low)
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


def _input_padding(x_shape, kernel_shape, dy_shape, conv):
  """The padding of dy, dilated by the strides, with which the reversed kernel brings it back to the size of x."""
  padding = []
  for size, k, out, stride, dilation, (low, _) in zip(
    x_shape[1:3], kernel_shape[:2], dy_shape[1:3], conv.window_strides, conv.rhs_dilation, conv.padding, strict=True
  ):
    before = _extent(k, dilation) - 1 - low
    padding.append((before, size + _extent(k, dilation) - 1 - _extent(out, stride) - before))
  return tuple(padding)


def _extent(size, dilation):
  return (size - 1) * dilation + 1


# A loop of dense convolutions over groups merged block-diagonally ----------------------------------------------------


def merged_forward(x, kernel, conv, blocks):
  """`blocks` dense convolutions, each over groups / blocks neighbouring groups with zeros between them."""
  kernels = jnp.split(merge(kernel, conv.feature_group_count, blocks), blocks, axis=3)
  one = conv._replace(feature_group_count=1)
  return jnp.concatenate([lax_forward(*pair, one) for pair in zip(_split(x, blocks), kernels, strict=True)], axis=3)


def merged_input_gradient(dy, kernel, x_shape, conv, blocks):
  kernels = jnp.split(merge(kernel, conv.feature_group_count, blocks), blocks, axis=3)
  return jnp.concatenate(
    [dense_input_gradient(*pair, x_shape, conv) for pair in zip(_split(dy, blocks), kernels, strict=True)], axis=3
  )


def merged_weight_gradient(x, dy, kernel_shape, conv, blocks):
  pairs = zip(jnp.split(x.transpose(3, 1, 2, 0), blocks), _split(dy.transpose(1, 2, 0, 3), blocks), strict=True)
  dkernel = jnp.concatenate([dense_weight_gradient(*pair, kernel_shape, conv) for pair in pairs], axis=3)
  return unmerge(dkernel.transpose(1, 2, 0, 3), conv.feature_group_count, blocks)


@functools.cache
def merged(blocks):
  """The formulation in `blocks` blocks, a divisor of the number of groups; one block is one dense convolution."""
  return Formulation(
    *(functools.partial(f, blocks=blocks) for f in (merged_forward, merged_input_gradient, merged_weight_gradient))
  )


def blocks_of(channels, groups, least):
  """The most blocks, up to 16, of whole groups and of at least so many channels; one where there are too few."""
  return max(n for n in range(1, 17) if groups % n == 0 and (n == 1 or channels // n >= least))


def merge(kernel, groups, blocks):
  """(KH, KW, I, O) in `groups` groups to (KH, KW, I * groups / blocks, O) in `blocks` groups, block-diagonal."""
  per_block = groups // blocks
  if per_block == 1:
    return kernel
  repeated = jnp.tile(kernel, (1, 1, per_block, 1))
  return jnp.where(_same_group(repeated.shape, groups, per_block), repeated, jnp.zeros((), kernel.dtype))


def unmerge(dkernel, groups, blocks):
  """The transpose of `merge`: what lies between the groups is dropped."""
  per_block = groups // blocks
  if per_block == 1:
    return dkernel
  height, width, inputs, outputs = dkernel.shape
  dkernel = jnp.where(_same_group(dkernel.shape, groups, per_block), dkernel, jnp.zeros((), dkernel.dtype))
  return dkernel.reshape(height, width, per_block, inputs // per_block, outputs).sum(2)


def _same_group(shape, groups, per_block):
  """(I, O), whether input and output channel of a merged kernel of this shape belong to the same group."""
  _, _, inputs, outputs = shape
  return jnp.arange(inputs)[:, None] // (inputs // per_block) == jnp.arange(outputs) // (outputs // groups) % per_block


def _split(x, blocks):
  return jnp.split(x, blocks, axis=3)


# A sum of elementwise products over the shifts of the window ---------------------------------------------------------


def shifts_forward(x, kernel, conv):
  """One product for each position in the window and input channel of a group, each over all output channels.

  XLA fuses them all into one vectorised pass over the images.
  """
  dtype, inputs = _accumulator(x.dtype), kernel.shape[2]
  padded, kernel = _pad(x.astype(dtype), conv), kernel.astype(dtype)
  return sum(
    image * kernel[i, j, c]
    for c in range(inputs)
    for (i, j), image in _shifts(_repeat(padded, c, kernel.shape, conv), kernel.shape, conv)
  ).astype(x.dtype)


def shifts_input_gradient(dy, kernel, x_shape, conv):
  """The same sum over dy, dilated by the strides, with the reversed kernel, its channels exchanged in each group."""
  height, width, inputs, outputs = kernel.shape
  groups, outputs = conv.feature_group_count, outputs // conv.feature_group_count
  padding = _input_padding(x_shape, kernel.shape, dy.shape, conv)
  kernel = jnp.flip(kernel, (0, 1)).reshape(height, width, inputs, groups, outputs).transpose(0, 1, 4, 3, 2)
  dy = lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), *((0, 0, s - 1) for s in conv.window_strides), (0, 0, 0)))
  return shifts_forward(
    dy, kernel.reshape(height, width, outputs, groups * inputs), conv._replace(window_strides=(1, 1), padding=padding)
  )


def shifts_weight_gradient(x, dy, kernel_shape, conv):
  """A scan over the images: one image and its sums stay in the cache, which 9 passes over the whole batch do not."""
  height, width, inputs, outputs = kernel_shape
  dtype = _accumulator(x.dtype)

  def add_image(sums, images):
    image, dimage = (image[None].astype(dtype) for image in images)
    products = [
      shifted * dimage
      for c in range(inputs)
      for _, shifted in _shifts(_repeat(image, c, kernel_shape, conv), kernel_shape, conv)
    ]
    return [total + product for total, product in zip(sums, products, strict=True)], None

  zero = jnp.zeros((1, *dy.shape[1:]), dtype)
  sums, _ = lax.scan(add_image, [zero] * (inputs * height * width), (_pad(x, conv), dy))
  sums = jnp.stack(sums).sum((1, 2, 3)).reshape(inputs, height, width, outputs)
  return sums.transpose(1, 2, 0, 3).astype(x.dtype)


def _repeat(x, c, kernel_shape, conv):
  """x (N, H, W, C) as (N, H, W, O): for each output channel, input channel `c` of its group.

  A gather, which XLA does before the products and not within them, so that these run over neighbouring values.
  """
  _, _, inputs, outputs = kernel_shape
  outputs //= conv.feature_group_count
  if inputs == outputs == 1:
    return x
  grouped = x.reshape(*x.shape[:3], conv.feature_group_count, inputs)
  return grouped[..., np.full(outputs, c)].reshape(*x.shape[:3], -1)


def _shifts(x, kernel_shape, conv):
  """[((i, j), the part of the padded x that the kernel's position (i, j) meets)], in the kernel's order."""

  def span(i, axis):
    start, reach = i * conv.rhs_dilation[axis], (kernel_shape[axis] - 1) * conv.rhs_dilation[axis]
    return slice(start, x.shape[1 + axis] - reach + start, conv.window_strides[axis])

  return [((i, j), x[:, span(i, 0), span(j, 1)]) for i in range(kernel_shape[0]) for j in range(kernel_shape[1])]


def _pad(x, conv):
  return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*pair, 0) for pair in conv.padding), (0, 0, 0)))


def _accumulator(dtype):
  return jnp.promote_types(dtype, jnp.float32)


SHIFTS = Formulation(shifts_forward, shifts_input_gradient, shifts_weight_gradient)


# A 1x1 convolution as a matrix product -------------------------------------------------------------------------------


def matmul_forward(x, kernel, conv):
  """Of one group, 1x1 and without padding; strides leave out pixels."""
  (row, column) = conv.window_strides
  return lax.dot_general(x[:, ::row, ::column], kernel[0, 0], (((3,), (0,)), ((), ())), precision=conv.precision)


def matmul_weight_gradient(x, dy, kernel_shape, conv):
  """A product for each image: for one over the whole batch, XLA:CPU would transpose the batch in memory first."""
  (row, column) = conv.window_strides
  x, dy = (each.reshape(len(each), -1, each.shape[3]) for each in (x[:, ::row, ::column], dy))
  products = lax.dot_general(
    x, dy, (((1,), (1,)), ((0,), (0,))), precision=conv.precision, preferred_element_type=_accumulator(x.dtype)
  )
  return products.sum(0).astype(x.dtype).reshape(kernel_shape)


MATMUL = Formulation(matmul_forward, input_transpose(matmul_forward), matmul_weight_gradient)
