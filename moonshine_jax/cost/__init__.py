"""What a network costs: parameters, multiply-adds and the memory of its activations, counted from its layers."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from moonshine_jax.cost import multiply_adds
from moonshine_jax.errors import warn
from moonshine_jax.ops import grouped_conv


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of one network.

  Attributes:
    parameters: as the paper counts them, with both running statistics of BN: 4 for every BN channel.
    multiply_adds: for one image; see `count`. None where they cannot be counted.
  """

  parameters: int
  multiply_adds: int | None


@dataclasses.dataclass(frozen=True)
class Layer:
  """A module with parameters of its own: a convolution, BN with its ReLU, or the fully connected layer.

  Attributes:
    path: of the module, as 'conv2_block1/conv1'.
    kind: in words, as 'conv 3x3, stride 2, 16 groups'.
    output_shape: for one image, (height, width, channels) or (classes,).
    parameters: with BN's running statistics.
    trainable: parameters without them.
    multiply_adds: for one image; see `count`.
  """

  path: str
  kind: str
  output_shape: tuple[int, ...]
  parameters: int
  trainable: int
  multiply_adds: int


@dataclasses.dataclass(frozen=True)
class Profile:
  """A network's layers, in the order in which they run, and the bytes of its activations for one image.

  Attributes:
    layers: see `Layer`.
    training_bytes: of the inputs of all layers, each array once: what the backward pass reads of the forward pass.
    inference_bytes: the most that are alive at once, when the layers run one after the other in the order of the code,
      each (and each addition) writing an array of its own, and an array is dropped once its last reader has run.
  """

  layers: list[Layer]
  training_bytes: int
  inference_bytes: int


def count(model: nn.Module, image_shape: tuple[int, ...]) -> Cost:
  """Counts for one image of shape (height, width, channels), without computing anything; of any linen module.

  Takes seconds for a deep network, and so once for all runs of it.

  The one rule of multiply-adds: every output position of a convolution or a fully connected layer costs one for each
  weight of its kernel, padding included; nothing else costs any. A grouped kernel is smaller, and so costs less.
  """
  try:
    hash(model)
  except TypeError:  # a user's, with attributes that have none
    return _count.__wrapped__(model, image_shape)
  return _count(model, image_shape)


@functools.cache
def _count(model, image_shape):
  image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  with grouped_conv.plain():
    program = jax.make_jaxpr(model.apply)(variables, image)
  number = len(jax.tree.leaves(variables))
  try:
    counted = multiply_adds.count(program, [multiply_adds.PARAMETERS] * number + [multiply_adds.IMAGES])
  except multiply_adds.UncountableError as error:
    warn(f'the multiply-adds of {type(model).__name__} are not counted: {error}')
    counted = None
  return Cost(_size(variables), counted)


def profile(model: nn.Module, image_shape: Sequence[int]) -> Profile:
  """Of one image of shape (height, width, channels), without computing anything."""
  layers = []
  kept, unread = {}, {}  # arrays by id; held, so that no other array gets the id
  first, last = {}, {}  # arrays with the first and the last operation, layer or addition, that touches them
  operations = 0

  def run(reads, write):
    nonlocal operations
    for array in (*reads, write):
      first.setdefault(id(array), (array, operations))
      last[id(array)] = operations
      unread.pop(id(array), None)
    unread[id(write)] = write
    operations += 1

  def visit(module, inputs, outputs):
    if _has_parameters(module):
      layers.append(_layer(module, outputs))
      kept[id(inputs)] = inputs
      run([inputs], outputs)
    elif isinstance(outputs, jax.Array) and id(outputs) not in first:  # a block, which ends with an addition
      branches = list(unread.values())
      run(branches if len(branches) > 1 else [*branches, inputs], outputs)

  visit_layers(model, image_shape, visit)
  changes = [0] * (operations + 1)  # of the bytes alive, from one operation to the next
  for key, (array, operation) in first.items():
    changes[operation] += array.nbytes
    changes[last[key] + 1] -= array.nbytes
  return Profile(layers, sum(array.nbytes for array in kept.values()), max(itertools.accumulate(changes)))


def visit_layers(
  model: nn.Module, image_shape: Sequence[int], visit: Callable[[nn.Module, jax.Array, Any], None]
) -> Any:
  """Calls visit(module, inputs, outputs) for the model and every module in it, on one image, computing nothing.

  Of a module that is called with several things, the inputs are the first.

  Returns:
    The shapes of the model's variables.
  """

  def intercept(call, args, kwargs, context):
    outputs = call(*args, **kwargs)
    if context.method_name == '__call__':
      visit(context.module, next(iter([*args, *kwargs.values()]), None), outputs)
    return outputs

  def init(key, image):
    with nn.intercept_methods(intercept):
      return model.init(key, image)

  return jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))


def _has_parameters(module):
  """Whether the module has parameters of its own, beside those of the modules in it."""
  return any(not isinstance(each, dict) for each in module.variables.get('params', {}).values())


def _layer(module, outputs):
  kernel = module.get_variable('params', 'kernel') if isinstance(module, nn.Conv | nn.Dense) else None
  return Layer(
    path='/'.join(module.path),
    kind=_kind(module),
    output_shape=outputs.shape[1:],
    parameters=_size(module.variables),
    trainable=_size(module.variables['params']),
    multiply_adds=0 if kernel is None else math.prod(outputs.shape[:-1]) * kernel.size)


def _size(variables):
  return sum(leaf.size for leaf in jax.tree.leaves(variables))


def _kind(module):
  match module:
    case nn.Dense():
      return 'fully connected'
    case nn.Conv():
      words = {'stride {}': module.strides, 'dilation {}': module.kernel_dilation,
               '{} groups': module.feature_group_count}
      return ', '.join(['conv ' + 'x'.join(map(str, module.kernel_size)),
                        *(each.format(number) for each, number in words.items() if number != 1)])
  return type(module).__name__
