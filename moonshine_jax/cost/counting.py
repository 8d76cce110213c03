"""Parameters, multiply-adds and activation memory of any linen module, counted from the program that JAX traces."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr
from msgspec import Meta

from moonshine_jax.cost.activations import Activations
from moonshine_jax.cost.multiply_adds import IMAGES_BIT, UncountableError, count_multiply_adds
from moonshine_jax.errors import warn
from moonshine_jax.ops.platforms import lax_only

# Images in a batch whose activations are measured: a prime that divides the size of nothing else.
BATCH = 1009


@dataclasses.dataclass(frozen=True)
class Cost:
  """Parameters and multiply-adds of a network.

  Attributes:
    parameters: as the paper counts them, with both running statistics of BN: 4 for every BN channel.
    multiply_adds: for one image; see `multiply_adds`. None where they cannot be counted.
  """

  parameters: Annotated[int, Meta(ge=0)]
  multiply_adds: Annotated[int, Meta(ge=0)] | None


@dataclasses.dataclass(frozen=True)
class Layer:
  """A module that holds parameters: a convolution, BN with its ReLU, or the fully connected layer.

  Attributes:
    path: of the module, as 'conv2_block1/conv1'; '' for the network itself.
    kind: in words, as 'conv 3x3, stride 2, 16 groups'; '-' for parameters that are in no module that is called.
    output_shape: for one image, (height, width, channels) or (classes,), of the first call; () where there is none.
    parameters: with BN's running statistics, and with all steps of a scan.
    trainable: parameters without BN's running statistics.
    multiply_adds: for one image, of all calls; see `multiply_adds`. None where they cannot be counted.
  """

  path: str
  kind: str
  output_shape: tuple[int, ...]
  parameters: int
  trainable: int
  multiply_adds: int | None


@dataclasses.dataclass(frozen=True)
class Profile:
  """Layers, variables and activation memory of a network.

  Attributes:
    layers: in the order in which they first run.
    variables: the shapes of the network's variables.
    inference_bytes: the most bytes of one image's activations that are alive at once; see `Activations.peak_bytes`.
      None where there are loops in the network.
  """

  layers: list[Layer]
  variables: dict[str, Any]
  inference_bytes: int | None


def count_cost(model: nn.Module, image_shape: tuple[int, ...]) -> Cost:
  """Counts parameters and multiply-adds, without computing anything.

  Every output position of a convolution or a fully connected layer costs one multiply-add for each weight of its
  kernel, padding included; nothing else costs any. A grouped kernel is smaller, and so costs less.

  A deep network takes seconds, so the result is kept for all runs of the network.

  Args:
    model: any linen module.
    image_shape: of one image, (height, width, channels).
  """
  try:
    hash(model)
  except TypeError:  # a user-defined module, with attributes that have no hash
    return _count_cost.__wrapped__(model, image_shape)
  return _count_cost(model, image_shape)


@functools.cache
def _count_cost(model: nn.Module, image_shape: tuple[int, ...]) -> Cost:
  image = _describe_images(1, image_shape)
  with lax_only():
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
  counts = _count_by_variables(model, _trace(model.apply, variables, image), variables)
  return Cost(_count_parameters(variables), None if counts is None else counts.total())


def profile(model: nn.Module, image_shape: Sequence[int]) -> Profile:
  """Lists a network's layers and measures its activations at inference, without computing anything.

  Args:
    model: any linen module.
    image_shape: of one image, (height, width, channels).
  """
  called_modules: dict[tuple[str, ...], tuple[str, tuple[int, ...]]] = {}  # kind and output shape, by path

  def visit(module: nn.Module, inputs: Any, outputs: Any) -> None:
    del inputs
    output_shape = next((output.shape[1:] for output in jax.tree.leaves(outputs)), ())
    called_modules.setdefault(module.path, (_describe_kind(module), output_shape))

  variables = visit_layers(model, image_shape, visit)
  program = _trace(model.apply, variables, _describe_images(1, image_shape))
  counts = _count_by_variables(model, program, variables)
  parameters: Counter[tuple[str, ...]] = Counter()
  trainable: Counter[tuple[str, ...]] = Counter()
  layer_counts: Counter[tuple[str, ...]] = Counter()
  leaves = [(_module_path(path), path[0].key, leaf) for path, leaf in jax.tree.leaves_with_path(variables)]
  for path, collection, leaf in leaves:
    parameters[path] += leaf.size
    trainable[path] += leaf.size if collection == 'params' else 0
  for bits, count in (counts or {}).items():  # a kernel that is made of several arrays belongs to the largest of them
    layer_counts[max((leaf.size, path) for i, (path, _, leaf) in enumerate(leaves) if bits >> i & 2)[1]] += count
  called_layers = [path for path in called_modules if path in parameters]
  layers = [
    Layer(
      '/'.join(path),
      *called_modules.get(path, ('-', ())),
      parameters[path],
      trainable[path],
      None if counts is None else layer_counts[path],
    )
    for path in [*called_layers, *(path for path in parameters if path not in called_modules)]
  ]
  return Profile(layers, variables, _none_for_loops(lambda: Activations(program).peak_bytes()))


def training_bytes(model: nn.Module, variables: dict[str, Any], image_shape: Sequence[int]) -> int | None:
  """Counts the bytes of one image's activations that training keeps from the forward to the backward pass.

  These are the activations that the backward pass of the logits reads, every array once. What is elementwise is
  computed anew from them: see `Activations.kept_bytes`.

  Args:
    model: called with (images, train); returns the logits first.
    variables: the shapes of its variables.
    image_shape: of one image, (height, width, channels).

  Returns:
    The bytes; None where there are loops in the network.
  """

  def run(variables: dict[str, Any], images: jax.Array) -> list[Any]:
    def logits(params: Any) -> jax.Array:
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

  program = _trace(run, variables, _describe_images(BATCH, image_shape))
  return _none_for_loops(lambda: Activations(program, BATCH).kept_bytes())


def visit_layers(model: nn.Module, image_shape: Sequence[int], visit: Callable[[nn.Module, Any, Any], None]) -> Any:
  """Visits a model and every module in it in the order of their calls, without computing anything.

  Args:
    model: any linen module.
    image_shape: of one image, (height, width, channels).
    visit: called with (module, inputs, outputs) for every call; of several arguments, the inputs are the first.

  Returns:
    The shapes of the model's variables.
  """

  def intercept(call: Callable, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
    outputs = call(*args, **kwargs)
    if context.method_name == '__call__':
      visit(context.module, next(iter([*args, *kwargs.values()]), None), outputs)
    return outputs

  def init(key: jax.Array, image: jax.Array) -> Any:
    with nn.intercept_methods(intercept):
      return model.init(key, image)

  return jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))


def _describe_images(number: int, image_shape: Sequence[int]) -> jax.ShapeDtypeStruct:
  """Describes a batch of float32 images."""
  return jax.ShapeDtypeStruct((number, *image_shape), jnp.float32)


def _trace(function: Callable, variables: Any, images: jax.ShapeDtypeStruct) -> ClosedJaxpr:
  """Traces a function of variables and images, with plain convolutions, which are what is counted."""
  with lax_only():
    return jax.make_jaxpr(function)(variables, images)


def _count_by_variables(model: nn.Module, program: ClosedJaxpr, variables: Any) -> Counter[int] | None:
  """Counts a program's multiply-adds, by the bits of the variables that the kernels are made of.

  Returns:
    The counts; the first variable has the bit 2. None, with a warning, where they cannot be counted.
  """
  variable_bits = [2 << i for i in range(len(jax.tree.leaves(variables)))]
  try:
    return count_multiply_adds(program, [*variable_bits, IMAGES_BIT])
  except UncountableError as error:
    warn(f'the multiply-adds of {type(model).__name__} are not counted: {error}')
    return None


def _none_for_loops(measure: Callable[[], int]) -> int | None:
  """Returns what is measured; None where there are loops in the network."""
  try:
    return measure()
  except UncountableError:
    return None


def _module_path(path: tuple[Any, ...]) -> tuple[str, ...]:
  """Returns the path of the module that a variable is in, from the variable's path, (collection, ..., name)."""
  return tuple(key.key for key in path[1:] if isinstance(key, jax.tree_util.DictKey))[:-1]


def _count_parameters(variables: Any) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(variables))


def _describe_kind(module: nn.Module) -> str:
  """Returns the kind of a module in words, as 'conv 3x3, stride 2, 16 groups'."""
  if isinstance(module, nn.Dense):
    return 'fully connected'
  kernel = nn.meta.unbox(module.variables.get('params', {})).get('kernel')
  if not isinstance(module, nn.Conv) or kernel is None:
    return type(module).__name__
  taps = kernel.shape[:-2]  # two for each axis where S-2x2 took the place of the original
  sizes, strides, dilations = (
    (value or 1,) * len(taps) if isinstance(value, int | None) else tuple(value)
    for value in (module.kernel_size, module.strides, module.kernel_dilation)
  )
  # S-2x2 has 2 taps where its module says `kernel_size` 3: they are as far apart as the first and the last of the 3.
  dilations = tuple(
    dilation if number == size else (size - 1) * dilation
    for number, size, dilation in zip(taps, sizes, dilations, strict=True)
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
