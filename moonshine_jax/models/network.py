"""A model with the normalisation of its images."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from moonshine_jax.errors import UserError

COLLECTIONS = {'params', 'batch_stats'}  # of a model's variables: what a step carries


@dataclasses.dataclass(frozen=True)
class Network:
  """A model and the normalisation that it is trained with: called with uint8 images.

  Attributes:
    model: a linen module that returns (logits, activations).
    mean: of each channel's pixels, in the units of uint8.
    std: likewise.
  """

  model: nn.Module
  mean: tuple[float, ...]
  std: tuple[float, ...]

  def init(self, key: jax.Array, image_shape: Sequence[int]) -> dict[str, Any]:
    """Initial variables. `lazy_init` runs the initialisers alone: neither the forward pass nor its compilation."""
    return self.model.lazy_init(key, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))

  def shapes(self, image_shape: Sequence[int]) -> dict[str, Any]:
    """The shapes of the variables. Raises UserError for a model with other variables than a step carries."""
    variables = jax.eval_shape(self.model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    if others := sorted(variables.keys() - COLLECTIONS):
      raise UserError(f'the network has variables of {", ".join(others)}: expected params, and batch_stats, alone')
    return variables

  def __call__(self, variables: dict[str, Any], images: jax.Array, train: bool, **kwargs: Any) -> Any:
    """Normalises uint8 images (batch, height, width, channels) and applies the model."""
    return self.model.apply(variables, normalise(images, self.mean, self.std), train=train, **kwargs)


def normalise(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
  """uint8 images (..., channels) -> float32, less the mean and over the standard deviation of each channel's pixels."""
  return (images.astype(jnp.float32) - jnp.asarray(mean)) / jnp.asarray(std)
