"""What a network costs: parameters and multiply-adds, counted from its layers."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

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

  def add(module, inputs, outputs):
    nonlocal multiply_adds
    del inputs
    if isinstance(module, nn.Conv | nn.Dense):
      multiply_adds += math.prod(outputs.shape[:-1]) * module.get_variable('params', 'kernel').size

  variables = visit_layers(model, image_shape, add)
  return Cost(sum(leaf.size for leaf in jax.tree.leaves(variables)), multiply_adds)


def visit_layers(
  model: nn.Module, image_shape: Sequence[int], visit: Callable[[nn.Module, jax.Array, Any], None]
) -> Any:
  """Calls visit(module, inputs, outputs) for the model and every module in it, on one image, computing nothing.

  Returns:
    The shapes of the model's variables.
  """

  def intercept(call, args, kwargs, context):
    outputs = call(*args, **kwargs)
    if context.method_name == '__call__':
      visit(context.module, args[0], outputs)
    return outputs

  def init(key, image):
    with nn.intercept_methods(intercept):
      return model.init(key, image)

  return jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
