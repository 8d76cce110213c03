"""Grouped convolution as a sum of elementwise products over the shifts of the window: fast for few channels a group."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from moonshine_jax.ops.formulations import ConvSpec, Formulation, Shape, accumulation_dtype, input_padding


def shifts_forward(x: jax.Array, kernel: jax.Array, conv: ConvSpec) -> jax.Array:
  """Sums one product for each position in the window and input channel of a group, over all output channels.

  XLA fuses all products into one vectorised pass over the images.
  """
  dtype, inputs = accumulation_dtype(x.dtype), kernel.shape[2]
  padded, kernel = _pad(x.astype(dtype), conv), kernel.astype(dtype)
  products = (
    image * kernel[i, j, c]
    for c in range(inputs)
    for (i, j), image in _shifts(_repeat(padded, c, kernel.shape, conv), kernel.shape, conv)
  )
  return sum(products, start=jnp.zeros((), dtype)).astype(x.dtype)


def shifts_input_gradient(dy: jax.Array, kernel: jax.Array, x_shape: Shape, conv: ConvSpec) -> jax.Array:
  """Computes the input gradient of `shifts_forward` by the same sum.

  It runs over dy, dilated by the strides, with the reversed kernel, whose input and output channels change places in
  every group.
  """
  height, width, inputs, outputs = kernel.shape
  groups, outputs = conv.feature_group_count, outputs // conv.feature_group_count
  padding = input_padding(x_shape, kernel.shape, dy.shape, conv)
  kernel = jnp.flip(kernel, (0, 1)).reshape(height, width, inputs, groups, outputs).transpose(0, 1, 4, 3, 2)
  dy = lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), *((0, 0, s - 1) for s in conv.window_strides), (0, 0, 0)))
  return shifts_forward(
    dy, kernel.reshape(height, width, outputs, groups * inputs), conv._replace(window_strides=(1, 1), padding=padding)
  )


def shifts_weight_gradient(x: jax.Array, dy: jax.Array, kernel_shape: Shape, conv: ConvSpec) -> jax.Array:
  """Computes the weight gradient of `shifts_forward` by a scan over the images.

  One image and its sums stay in the cache, which 9 passes over the whole batch do not.
  """
  height, width, inputs, outputs = kernel_shape
  dtype = accumulation_dtype(x.dtype)

  def add_image(sums: list[jax.Array], images: tuple[jax.Array, jax.Array]) -> tuple[list[jax.Array], None]:
    image, dimage = (image[None].astype(dtype) for image in images)
    products = [
      shifted * dimage
      for c in range(inputs)
      for _, shifted in _shifts(_repeat(image, c, kernel_shape, conv), kernel_shape, conv)
    ]
    return [total + product for total, product in zip(sums, products, strict=True)], None

  zero = jnp.zeros((1, *dy.shape[1:]), dtype)
  sums, _ = lax.scan(add_image, [zero] * (inputs * height * width), (_pad(x, conv), dy))
  dkernel = jnp.stack(sums).sum((1, 2, 3)).reshape(inputs, height, width, outputs)
  return dkernel.transpose(1, 2, 0, 3).astype(x.dtype)


def _repeat(x: jax.Array, c: int, kernel_shape: Shape, conv: ConvSpec) -> jax.Array:
  """Takes x (N, H, W, C) to (N, H, W, O): for each output channel, input channel `c` of its group.

  XLA runs this gather before the products and not within them, so that the products run over neighbouring values.
  """
  _, _, inputs, outputs = kernel_shape
  outputs //= conv.feature_group_count
  if inputs == outputs == 1:
    return x
  grouped = x.reshape(*x.shape[:3], conv.feature_group_count, inputs)
  return grouped[..., np.full(outputs, c)].reshape(*x.shape[:3], -1)


def _shifts(x: jax.Array, kernel_shape: Shape, conv: ConvSpec) -> list[tuple[tuple[int, int], jax.Array]]:
  """Lists ((i, j), the part of the padded x that the kernel's position (i, j) meets), in the kernel's order."""

  def span(i: int, axis: int) -> slice:
    start, reach = i * conv.rhs_dilation[axis], (kernel_shape[axis] - 1) * conv.rhs_dilation[axis]
    return slice(start, x.shape[1 + axis] - reach + start, conv.window_strides[axis])

  return [((i, j), x[:, span(i, 0), span(j, 1)]) for i in range(kernel_shape[0]) for j in range(kernel_shape[1])]


def _pad(x: jax.Array, conv: ConvSpec) -> jax.Array:
  return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*pair, 0) for pair in conv.padding), (0, 0, 0)))


SHIFTS = Formulation(shifts_forward, shifts_input_gradient, shifts_weight_gradient)
