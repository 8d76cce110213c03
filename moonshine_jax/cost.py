"""What a network costs: parameters and multiply-adds, counted from its layers."""

import dataclasses
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of one network.

  Attributes:
    parameters: as the paper counts them, with both running statistics of BN: 4 for every BN channel.
    multiply_adds: for one image; see `count`.
  """

  parameters: int
  multiply_adds: int


def count(model: nn.Module, image_shape: Sequence[int]) -> Cost:
  """Counts for one image of shape (height, width, channels), without computing anything.

  The one rule of multiply-adds: every output position of a convolution or a fully connected layer costs one for each
  weight of its kernel, padding included; nothing else costs any. A grouped kernel is smaller, and so costs less.
  """
  multiply_adds = 0

  def intercept(call, args, kwargs, context):
    nonlocal multiply_adds
    outputs = call(*args, **kwargs)
    if context.method_name == '__call__' and isinstance(context.module, nn.Conv | nn.Dense):
      kernel = context.module.get_variable('params', 'kernel')
      multiply_adds += math.prod(outputs.shape[:-1]) * kernel.size
    return outputs

  def init(key, image):
    with nn.intercept_methods(intercept):
      return model.init(key, image)

  variables = jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
  return Cost(sum(leaf.size for leaf in jax.tree.leaves(variables)), multiply_adds)
