"""The places of a network where a cheap block may stand, and what comes in and goes out there in a teacher.

A place is a residual block in the networks of this project, and a convolution that `cheapen` replaces in any other
linen module. A student has the shapes of its teacher, so what stands at a place can run, and learn, alone.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from moonshine_jax.errors import UserError
from moonshine_jax.models.blocks import ResidualBlock
from moonshine_jax.models.resnet import PostActivationBlock
from moonshine_jax.models.surgery.cheap import Cheap
from moonshine_jax.models.surgery.intercept import Unbound

TAPPED, SWAPPED = 'moonshine_jax_places', 'moonshine_jax_swapped'  # collections

# What each kind of residual block has beside its cheap convolutions: the BN before them, and the shortcut.
BESIDE: dict[type[nn.Module], set[str]] = {
  ResidualBlock: {'bn1', 'shortcut'},
  PostActivationBlock: {'downsample_0', 'downsample_1'},
}


@dataclasses.dataclass(frozen=True)
class Place:
  """A place of a student at which it differs from its teacher.

  Attributes:
    path: path of the module, which the teacher has too.
    module: what stands there in the student, alone: called as `run` does.
    shapes: of one example, of what comes in and what goes out.
  """

  path: str
  module: nn.Module
  shapes: tuple[tuple[int, ...], tuple[int, ...]]

  def run(self, variables: Mapping[str, Any], inputs: jax.Array) -> tuple[jax.Array, Mapping[str, Any]]:
    """Runs in training what stands at the place.

    Args:
      variables: of the whole student.
      inputs: (batch, height, width, channels), as the teacher has them there.

    Returns:
      The outputs, (batch, height, width, channels), and the running statistics afterwards, of the place alone.
    """
    outputs, updates = self._apply(variables, inputs, True, mutable=['batch_stats'])
    return outputs, updates.get('batch_stats', {})

  def evaluate(self, variables: Mapping[str, Any], inputs: jax.Array) -> jax.Array:
    """Runs in evaluation what stands at the place; arguments and outputs are those of `run`."""
    return self._apply(variables, inputs, False)

  def _apply(self, variables: Mapping[str, Any], inputs: jax.Array, train: bool, **kwargs: Any) -> Any:
    own = {name: subtree(tree, self.path) for name, tree in variables.items()}
    return self.module.apply(own, inputs, *(() if isinstance(self.module, Cheap) else (train,)), **kwargs)


def tap(apply: Callable, paths: Sequence[str]) -> Callable:
  """Returns a function that applies a network and returns what its modules have: {path: (inputs, outputs)}.

  Args:
    apply: the network, called with (variables, images, train=...), and `mutable` as `nn.Module.apply`.
    paths: paths of the modules.

  Raises:
    UserError: when it is traced, where a module is inside a transform that keeps its outputs.
  """

  def intercept(
    call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: nn.module.InterceptorContext
  ) -> Any:
    outputs = call(*args, **kwargs)
    if context.method_name == '__call__' and '/'.join(context.module.path) in paths:
      # Out of nn.remat and nn.jit values come by a collection alone.
      context.module.sow(
        TAPPED, TAPPED, (_inputs(args, kwargs), outputs), reduce_fn=lambda _, new: new, init_fn=lambda: None
      )
    return outputs

  def tapped(variables: Mapping[str, Any], images: jax.Array, train: bool = False) -> dict[str, Any]:
    with nn.intercept_methods(intercept):
      _, seen = apply(variables, images, train=train, mutable=[TAPPED])
    found = {path: subtree(seen.get(TAPPED, {}), path) for path in paths}
    if inside := [path for path in paths if TAPPED not in found[path]]:
      raise UserError(
        f'{", ".join(inside)}: inside a transform (nn.scan, ...) out of which outputs do not come, so that nothing '
        'there can learn alone: expected a rule that keeps it'
      )
    return {path: found[path][TAPPED] for path in paths}

  return tapped


def swap(apply: Callable, path: str) -> Callable:
  """Returns a function that applies a network in evaluation with given outputs of one of its modules.

  It is called with (variables, images, outputs) and returns what the network does. XLA leaves out what the module alone
  needs.

  Args:
    apply: the network, called with (variables, images, train=...).
    path: path of the module, which the network calls once.
  """

  def intercept(
    call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: nn.module.InterceptorContext
  ) -> Any:
    # Into nn.remat and nn.jit values come by a collection alone.
    if context.method_name == '__call__' and context.module.has_variable(SWAPPED, SWAPPED):
      return context.module.get_variable(SWAPPED, SWAPPED)
    return call(*args, **kwargs)

  def swapped(variables: Mapping[str, Any], images: jax.Array, outputs: jax.Array) -> Any:
    tree: Any = {SWAPPED: outputs}
    for name in reversed(path.split('/')):
      tree = {name: tree}
    with nn.intercept_methods(intercept):
      return apply({**variables, SWAPPED: tree}, images, train=False)

  return swapped


def find_places(student: nn.Module, teacher: nn.Module, image_shape: Sequence[int]) -> tuple[Place, ...]:
  """Returns the places at which a student differs from its teacher.

  Args:
    student: module of the student, called with (images, train=False).
    teacher: module of the teacher.
    image_shape: (height, width, channels) of the images.

  Raises:
    UserError: where the student is not its teacher with other blocks: names the place and the shapes there.
  """
  taught, learnt = _trace(teacher, image_shape), _trace(student, image_shape)
  places = []
  for path, call in learnt.items():
    there = taught.get(path)
    if not isinstance(call.module, tuple(BESIDE)) or (there and _are_alike(there.module, call.module)):
      continue
    if there is None or there.shapes != call.shapes:
      raise UserError(
        f'{path} of the student has the shapes {call.shapes}, and of the teacher '
        f'{there.shapes if there else "there is none"}: expected a student of its architecture with other blocks'
      )
    places.append(Place(path, call.module, there.shapes))
  for path, call in taught.items():
    if isinstance(call.module, tuple(BESIDE)) and path not in learnt:
      raise UserError(f'the student has no {path}: expected a student of its architecture with other blocks')
  cheap = _cheap(student)
  for path, notation in cheap.replacements if cheap else ():
    if path not in taught:
      raise UserError(f'{path} of the student is no convolution of the teacher: expected its own network, as block S')
    there = taught[path]
    module = Cheap(Unbound(there.module), (('', notation),), getattr(student, 'axis_name', None))
    places.append(Place(path, module, there.shapes))
  return tuple(places)


def start_from(variables: Mapping[str, Any], teacher_variables: Mapping[str, Any], places: Sequence[Place]) -> Any:
  """Returns a student's variables with its teacher's values wherever the two are the same.

  They are the same outside of the places, and in a residual block before its convolutions (the first BN) and beside
  them (the shortcut of a block that widens).

  Args:
    variables: the student's.
    teacher_variables: the teacher's.
    places: where they differ.
  """
  theirs = dict(jax.tree.leaves_with_path(teacher_variables))

  def start(keys: jax.tree_util.KeyPath, value: Any) -> Any:
    taught = theirs.get(keys)
    path = '/'.join(key.key for key in keys[1:])  # the first is the collection
    for place in places:
      if path.startswith(f'{place.path}/'):
        part = path.removeprefix(f'{place.path}/').split('/')[0]
        if part not in BESIDE.get(type(place.module), ()):
          return value
    return taught if taught is not None and jnp.shape(taught) == jnp.shape(value) else value

  return jax.tree.map_with_path(start, dict(variables))


def subtree(tree: Mapping[str, Any], path: str) -> Any:
  """Returns the variables below a path; {} where there are none."""
  for name in path.split('/'):
    tree = tree.get(name, {})
  return tree


def with_subtree(tree: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
  """Returns the tree with other variables below a path."""
  name, _, rest = path.partition('/')
  return {**tree, name: with_subtree(tree[name], rest, value) if rest else value}


@dataclasses.dataclass(frozen=True)
class _Call:
  """A call: the module, alone, and the shapes of one example that come in and go out."""

  module: nn.Module
  shapes: tuple[tuple[int, ...], tuple[int, ...]]


def residual_blocks(module: nn.Module, image_shape: Sequence[int]) -> tuple[str, ...]:
  """Returns the paths of a network's residual blocks, in the order in which they run."""
  return tuple(path for path, call in _trace(module, image_shape).items() if isinstance(call.module, tuple(BESIDE)))


def output_shapes(module: nn.Module, image_shape: Sequence[int], paths: Sequence[str]) -> dict[str, tuple[int, ...]]:
  """Returns the shape of what goes out at each path, of one example: (height, width, channels)."""
  calls = _trace(module, image_shape)
  return {path: calls[path].shapes[1] for path in paths}


def kinds(module: nn.Module, image_shape: Sequence[int], paths: Sequence[str]) -> tuple[str, ...]:
  """Returns for each path what stands there: equal for modules that are alike and have inputs of the same shape."""
  calls = _trace(module, image_shape)
  return tuple(f'{calls[path].module!r} {calls[path].shapes}' for path in paths)


def _trace(module: nn.Module, image_shape: Sequence[int]) -> dict[str, _Call]:
  """Returns the residual blocks and the convolutions of a network, by path: for each its last call."""
  calls = {}

  def intercept(
    call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: nn.module.InterceptorContext
  ) -> Any:
    outputs = call(*args, **kwargs)
    if context.method_name == '__call__' and isinstance(context.module, (*BESIDE, nn.Conv)):
      alone = context.module.clone(parent=None, name=None)
      path = '/'.join(context.module.path)
      calls[path] = _Call(alone, (jnp.shape(_inputs(args, kwargs))[1:], jnp.shape(outputs)[1:]))
    return outputs

  images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  with nn.intercept_methods(intercept):
    jax.eval_shape(lambda key, images: module.init(key, images, train=False), jax.random.key(0), images)
  return calls


def _inputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> jax.Array:
  """Returns the first argument of a call, by place or by name."""
  return next(iter((*args, *kwargs.values())))


def _are_alike(block: nn.Module, other: nn.Module) -> bool:
  """Whether two residual blocks have the same layers, whatever they compute in and over how many devices."""
  return type(block) is type(other) and block == other.clone(dtype=block.dtype, axis_name=block.axis_name)


def _cheap(module: nn.Module) -> Cheap | None:
  """Returns the network with replaced convolutions that a user-defined student wraps, if there is one."""
  while not isinstance(module, Cheap) and isinstance(getattr(module, 'original', None), Unbound):
    module = module.original.module
  return module if isinstance(module, Cheap) else None
