"""What a network costs: parameters, multiply-adds and the memory of its activations, counted from what JAX traces."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from moonshine_jax.cost import multiply_adds
from moonshine_jax.cost.activations import Activations
from moonshine_jax.cost.multiply_adds import UncountableError
from moonshine_jax.errors import warn
from moonshine_jax.ops import grouped_conv

# Images in a batch whose activations are measured: a prime that divides the size of nothing else.
BATCH = 1009


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of one network.

  Attributes:
    parameters: as the paper counts them, with both running statistics of BN: 4 for every BN channel.
    multiply_adds: for one image; see `count_cost`. None where they cannot be counted.
  """

  parameters: int
  multiply_adds: int | None


@dataclasses.dataclass(frozen=True)
class Layer:
  """A module with parameters of its own: a convolution, BN with its ReLU, or the fully connected layer.

  Attributes:
    path: of the module, as 'conv2_block1/conv1'; '' of the network itself.
    kind: in words, as 'conv 3x3, stride 2, 16 groups'; '-' of parameters that are in no module that is called.
    output_shape: for one image, (height, width, channels) or (classes,); of the first call. () where there is none.
    parameters: with BN's running statistics, and with all steps of a scan.
    trainable: parameters without them.
    multiply_adds: for one image, of all calls; see `count_cost`. None where they cannot be counted.
  """

  path: str
  kind: str
  output_shape: tuple[int, ...]
  parameters: int
  trainable: int
  multiply_adds: int | None


@dataclasses.dataclass(frozen=True)
class Profile:
  """A network's layers, its variables and its activations.

  Attributes:
    layers: see `Layer`; in the order in which they first run.
    variables: their shapes.
    inference_bytes: of the activations of one image, the most that are alive at once; see `Activations.peak`. None
      where there are loops in the network.
  """

  layers: list[Layer]
  variables: dict[str, Any]
  inference_bytes: int | None


def count_cost(model: nn.Module, image_shape: tuple[int, ...]) -> Cost:
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
  image = _images(1, image_shape)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  counted = _multiply_adds(model, _trace(model.apply, variables, image), variables)
  return Cost(_size(variables), None if counted is None else counted.total())


def profile(model: nn.Module, image_shape: Sequence[int]) -> Profile:
  """Of one image of shape (height, width, channels), without computing anything; of any linen module."""
  seen = {}

  def visit(module, inputs, outputs):
    del inputs
    seen.setdefault(module.path, (_kind(module), next((each.shape[1:] for each in jax.tree.leaves(outputs)), ())))

  variables = visit_layers(model, image_shape, visit)
  program = _trace(model.apply, variables, _images(1, image_shape))
  counted = _multiply_adds(model, program, variables)
  parameters, trainable, costs = Counter(), Counter(), Counter()
  leaves = [(_owner(path), path[0].key, leaf) for path, leaf in jax.tree.leaves_with_path(variables)]
  for owner, collection, leaf in leaves:
    parameters[owner] += leaf.size
    trainable[owner] += leaf.size if collection == 'params' else 0
  for bits, number in (counted or {}).items():  # a kernel that is made of several arrays is that of the largest
    costs[max((leaf.size, owner) for i, (owner, _, leaf) in enumerate(leaves) if bits >> i & 2)[1]] += number
  layers = [
    Layer(
      '/'.join(owner),
      *seen.get(owner, ('-', ())),
      parameters[owner],
      trainable[owner],
      None if counted is None else costs[owner],
    )
    for owner in [*(path for path in seen if path in parameters), *(path for path in parameters if path not in seen)]
  ]
  return Profile(layers, variables, _unless_loops(lambda: Activations(program).peak()))


def training_bytes(model: nn.Module, variables: dict[str, Any], image_shape: Sequence[int]) -> int | None:
  """Of the activations of one image, those that the backward pass of the logits reads of the forward pass.

  Each array once; what is elementwise is computed anew from them: see `Activations.kept`. Of a model that is called
  with (images, train) and returns logits first. None where there are loops in the network.
  """

  def run(variables, images):
    def logits(params):
      outputs, _ = model.apply(
        {**variables, 'params': params},
        images,
        train=True,
        rngs=jax.random.key(0),
        mutable=flax.core.DenyList('params'),
      )
      return jax.tree.leaves(outputs)[0]

    value, pullback = jax.vjp(logits, variables.get('params', {}))
    return [value, *jax.tree.leaves(pullback)]

  program = _trace(run, variables, _images(BATCH, image_shape))
  return _unless_loops(lambda: Activations(program, BATCH).kept())


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


def _images(number: int, image_shape: Sequence[int]) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct((number, *image_shape), jnp.float32)


def _trace(function: Callable, variables: Any, images: jax.ShapeDtypeStruct) -> ClosedJaxpr:
  with grouped_conv.lax_only():
    return jax.make_jaxpr(function)(variables, images)


def _multiply_adds(model: nn.Module, program: ClosedJaxpr, variables: Any) -> Counter[int] | None:
  """By the bits of the variables, from 2 for the first. None, with a warning, where they cannot be counted."""
  number = len(jax.tree.leaves(variables))
  try:
    return multiply_adds.count_multiply_adds(program, [*(2 << i for i in range(number)), multiply_adds.IMAGES])
  except UncountableError as error:
    warn(f'the multiply-adds of {type(model).__name__} are not counted: {error}')
    return None


def _unless_loops(measure: Callable[[], int]) -> int | None:
  try:
    return measure()
  except UncountableError:
    return None


def _owner(path: tuple[Any, ...]) -> tuple[str, ...]:
  """The path of the module that a variable is in, from the variable's, (collection, ..., name)."""
  return tuple(key.key for key in path[1:] if isinstance(key, jax.tree_util.DictKey))[:-1]


def _size(variables: Any) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(variables))


def _kind(module: nn.Module) -> str:
  if isinstance(module, nn.Dense):
    return 'fully connected'
  kernel = nn.meta.unbox(module.variables.get('params', {})).get('kernel')
  if not isinstance(module, nn.Conv) or kernel is None:
    return type(module).__name__
  taps = kernel.shape[:-2]  # two for each axis where S-2x2 took the place of the original
  sizes, strides, dilations = (
    (each or 1,) * len(taps) if isinstance(each, int | None) else tuple(each)
    for each in (module.kernel_size, module.strides, module.kernel_dilation)
  )
  dilations = tuple(
    d if here == there else (there - 1) * d for here, there, d in zip(taps, sizes, dilations, strict=True)
  )
  words = {'stride {}': strides, 'dilation {}': dilations, '{} groups': (module.feature_group_count,)}
  return ', '.join(
    [
      'conv ' + 'x'.join(map(str, taps)),
      *(
        word.format(numbers[0] if len(set(numbers)) == 1 else 'x'.join(map(str, numbers)))
        for word, numbers in words.items()
        if set(numbers) != {1}
      ),
    ]
  )
