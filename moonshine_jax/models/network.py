"""A model together with the normalisation of its images."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from moonshine_jax.errors import UserError

COLLECTIONS = {'params', 'batch_stats'}  # the collections of a model's variables that a train step carries


@dataclasses.dataclass(frozen=True)
class Network:
  """A model with the normalisation that it is trained with, called with uint8 images.

  Attributes:
    model: a linen module that returns (logits, activations).
    mean: mean of each channel's pixels, in the units of uint8.
    std: standard deviation of each channel's pixels, in the units of uint8.
  """

  model: nn.Module
  mean: tuple[float, ...]
  std: tuple[float, ...]

  def init(self, key: jax.Array, image_shape: Sequence[int]) -> Mapping[str, Any]:
    """Returns the initial variables of a model for images of (height, width, channels)."""
    # lazy_init runs the initialisers alone: it neither runs nor compiles the forward pass.
    return self.model.lazy_init(key, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))

  def shapes(self, image_shape: Sequence[int]) -> dict[str, Any]:
    """Returns the shapes of the variables. Raises UserError for variables that a train step does not carry."""
    variables = jax.eval_shape(self.model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    if others := sorted(variables.keys() - COLLECTIONS):
      raise UserError(f'the network has variables of {", ".join(others)}: expected params, and batch_stats, alone')
    return variables

  def __call__(self, variables: Mapping[str, Any], images: jax.Array, train: bool, **kwargs: Any) -> Any:
    """Normalises uint8 images (batch, height, width, channels) and applies the model."""
    return self.model.apply(variables, normalise(images, self.mean, self.std), train=train, **kwargs)


def normalise(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
  """Normalises uint8 images (..., channels) to float32: less each channel's mean, over its standard deviation."""
  return (images.astype(jnp.float32) - jnp.asarray(mean)) / jnp.asarray(std)
