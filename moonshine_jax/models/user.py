"""Networks of a user's own: the linen module that a function returns, as it is or with cheap convolutions."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from moonshine_jax.errors import UserError, shown
from moonshine_jax.models.blocks import Block
from moonshine_jax.models.surgery.capture import TRAIN_FLAGS, with_capture
from moonshine_jax.models.surgery.intercept import Unbound, adapt
from moonshine_jax.models.surgery.replace import cheapen
from moonshine_jax.runtime import user_functions


class Paired(nn.Module):
  """A module that is called with (images, train) and returns (logits, activations) of itself.

  Attributes:
    original: the module.
    axis_name: the pmapped axis over which BN takes its batch statistics, or None.
  """

  original: Unbound
  axis_name: str | None = None

  def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """(batch, height, width, channels) -> float32 logits (batch, classes) and the activations."""
    original = self.original.bind(self, f'{self.axis_name}')
    with nn.intercept_methods(adapt(self.axis_name)):
      logits, activations = original(images, train=train)
    return logits.astype(jnp.float32), tuple(activations)


@functools.cache
def create(
  network: str, block: str, num_classes: int, image_shape: tuple[int, ...], dtype: str, axis_name: str | None
) -> nn.Module:
  """The module of the function named `network`, of blocks other than 'S' with its convolutions replaced by that rule.

  The function is called with num_classes, and with dtype and axis_name if it has such parameters. Its module may return
  (logits, activations) by itself, as that of `with_capture` does; of another the activations are found.

  Raises:
    UserError: where the function or the module fails, and where nothing in it can be replaced.
  """
  where = f'config.model.network={network!r}'
  given = {'num_classes': num_classes, 'dtype': jnp.dtype(dtype), 'axis_name': axis_name}
  function = _function(network, dtype)
  try:
    module = function(
      **{
        name: value for name, value in given.items() if name == 'num_classes' or user_functions.accepts(function, name)
      }
    )
    if not isinstance(module, nn.Module):
      raise UserError(f'returned a {type(module).__name__}: expected a module of flax.linen')
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    evaluation = {
      name: not when_training
      for name, when_training in TRAIN_FLAGS.items()
      if user_functions.accepts(type(module).__call__, name)
    }
    paired = 'train' in evaluation and _is_pair(module, images)
    if block != 'S':
      module = cheapen(module, block, images, **evaluation)
    return Paired(Unbound(module), axis_name) if paired else with_capture(module, images, axis_name=axis_name)
  except UserError as error:
    raise UserError(f'{where}, config.model.block={shown(block)}: {error}') from error
  except Exception as error:  # whatever the user's code raises
    raise UserError(
      f'{where}: {type(error).__name__}: {str(error)[:500]}: expected a network for {num_classes} '
      f'classes and images of {image_shape}'
    ) from error


def check(network: str, block: str, dtype: str) -> None:
  """Raises UserError where there is no such function, or the blocks are no rule for a network of any kind."""
  _function(network, dtype)
  try:
    Block.parse(block)
  except ValueError as error:
    raise UserError(
      f'config.model.block={shown(block)}: {error}; expected one for the whole network of '
      f'{user_functions.short_name(network)}'
    ) from error


def _function(network: str, dtype: str) -> Callable[..., Any]:
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


def _is_pair(module: nn.Module, images: jax.ShapeDtypeStruct) -> bool:
  """Whether a module returns logits (batch, classes) and a sequence of images (batch, height, width, channels)."""
  outputs = jax.eval_shape(
    lambda key, images: module.init_with_output(key, images, train=False)[0], jax.random.key(0), images
  )
  return (
    isinstance(outputs, tuple | list)
    and len(outputs) == 2
    and isinstance(outputs[1], tuple | list)
    and [jnp.ndim(each) for each in [outputs[0], *outputs[1]]] == [2, *[4] * len(outputs[1])]
  )
