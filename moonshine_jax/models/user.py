"""User-defined networks: the linen module that a user's function returns, as it is or with cheap convolutions."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from moonshine_jax.errors import UserError, shown, warn_once
from moonshine_jax.models.blocks import Block
from moonshine_jax.models.surgery.capture import call_in_mode, with_capture
from moonshine_jax.models.surgery.intercept import Unbound, adapt
from moonshine_jax.models.surgery.layers import ConvLayer
from moonshine_jax.models.surgery.modes import check_modes, mode_arguments
from moonshine_jax.models.surgery.replace import cheapen, replaceable
from moonshine_jax.runtime import user_functions


class Paired(nn.Module):
  """A user's module that returns (logits, activations) without `with_capture`, called with (images, train).

  Attributes:
    original: the user's module.
    axis_name: the pmapped axis over which BN takes its batch statistics, or None.
  """

  original: Unbound
  axis_name: str | None = None

  def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """(batch, height, width, channels) -> float32 logits (batch, classes) and the activations."""
    original = self.original.bind(self, f'{self.axis_name}')
    with nn.intercept_methods(adapt(self.axis_name)):
      logits, activations = call_in_mode(original, images, train)
    return logits.astype(jnp.float32), tuple(activations)


@functools.cache
def create_user_model(
  network: str, block: str, num_classes: int, image_shape: tuple[int, ...], dtype: str, axis_name: str | None
) -> nn.Module:
  """Builds the module of a user's function, its convolutions replaced unless the block is 'S'.

  Args:
    network: the function's name, 'package.module:function' or 'file.py:function'. The function is called with
      num_classes, and with dtype and axis_name if it has such parameters.
    block: the notation of the block that replaces the convolutions, or one for each, as for `cheapen`; 'S' leaves them
      as they are.
    num_classes: size of the logits.
    image_shape: (height, width, channels) with which the module is traced.
    dtype: name of the dtype of the computation.
    axis_name: the pmapped axis over which BN takes its batch statistics, or None.

  Returns:
    A module that returns (logits, activations): the user's module may return these itself, as one from `with_capture`
    does; otherwise `with_capture` finds the activations.

  Raises:
    UserError: where the function or the module fails, and where nothing in it can be replaced.
  """
  where = f'config.model.network={network!r}'
  function = _load_function(network, dtype)
  try:
    module = _call_function(function, num_classes, dtype=jnp.dtype(dtype), axis_name=axis_name)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    in_evaluation = mode_arguments(module, train=False)
    paired = bool(in_evaluation) and _returns_pair(module, images, in_evaluation)
    if block != 'S':
      module = cheapen(module, block, images, **in_evaluation)
    return Paired(Unbound(module), axis_name) if paired else with_capture(module, images, axis_name=axis_name)
  except UserError as error:
    raise UserError(f'{where}, config.model.block={shown(block)}: {error}') from error
  except Exception as error:  # whatever the user's code raises
    raise UserError(
      f'{where}: {type(error).__name__}: {str(error)[:500]}: expected a network for {num_classes} '
      f'classes and images of {image_shape}'
    ) from error


def replaceable_convolutions(
  network: str, num_classes: int, image_shape: tuple[int, ...], dtype: str
) -> dict[ConvLayer, bool]:
  """Returns the convolutions of the network of a user's function that may be replaced; see `replace.replaceable`.

  The function can build its module: `create_user_model` has done so, with the same arguments.
  """
  module = _call_function(_load_function(network, dtype), num_classes, dtype=jnp.dtype(dtype))
  images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  return replaceable(module, images, **mode_arguments(module, train=False))


def check_user_modes(where: str, model: nn.Module, image_shape: tuple[int, ...]) -> None:
  """Raises UserError for a network that would train wrongly as it is not told that it trains, or would not evaluate.

  Prints a line where that may be meant; see `check_modes`.

  Args:
    where: the network, for messages.
    model: a module of `create_user_model`.
    image_shape: (height, width, channels).
  """
  try:
    doubts = check_modes(model, jax.ShapeDtypeStruct((2, *image_shape), jnp.float32))
  except UserError as error:
    raise UserError(f'{where}: {error}') from error
  except Exception as error:  # whatever the user's code raises
    raise UserError(
      f'{where}: {type(error).__name__}: {str(error)[:500]}: expected a network that can be trained and evaluated on '
      f'images of {image_shape}'
    ) from error
  for doubt in doubts:
    warn_once(f'{where}: {doubt}')


def check_user_model(network: str, block: str, dtype: str, load: bool = True) -> None:
  """Raises UserError where there is no such function, if it is loaded, or the block suits no network of any kind."""
  if load:
    _load_function(network, dtype)
  try:
    Block.parse_list(block)
  except ValueError as error:
    raise UserError(f'config.model.block={shown(block)}: {error}') from error


def _load_function(network: str, dtype: str) -> Callable[..., Any]:
  try:
    function = user_functions.load(network)
  except UserError as error:
    raise UserError(f'config.model.network={error}') from error
  if not user_functions.accepts(function, 'num_classes'):
    raise UserError(f'config.model.network={network!r}: expected a function with a parameter num_classes')
  if dtype != 'float32' and not user_functions.accepts(function, 'dtype'):
    raise UserError(
      f'config.model.dtype={dtype!r}: expected float32, as {user_functions.short_name(network)} has no parameter dtype'
    )
  return function


def _call_function(function: Callable[..., Any], num_classes: int, **options: Any) -> nn.Module:
  """Calls a user's function with num_classes and those options that it has as parameters."""
  accepted = {name: value for name, value in options.items() if user_functions.accepts(function, name)}
  module = function(num_classes=num_classes, **accepted)
  if not isinstance(module, nn.Module):
    raise UserError(f'returned a {type(module).__name__}: expected a module of flax.linen')
  return module


def _returns_pair(module: nn.Module, images: jax.ShapeDtypeStruct, arguments: dict[str, Any]) -> bool:
  """Whether a module returns logits (batch, classes) and a sequence of images (batch, height, width, channels)."""
  outputs = jax.eval_shape(
    lambda key, images: module.init_with_output(key, images, **arguments)[0], jax.random.key(0), images
  )
  return (
    isinstance(outputs, tuple | list)
    and len(outputs) == 2
    and isinstance(outputs[1], tuple | list)
    and [jnp.ndim(output) for output in [outputs[0], *outputs[1]]] == [2, *[4] * len(outputs[1])]
  )
