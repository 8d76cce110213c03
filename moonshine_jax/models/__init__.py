"""Networks as Flax linen modules that return `(logits, activations)`."""

import jax.numpy as jnp
import ml_collections

from moonshine_jax.models.wide_resnet import WideResNet


def create_model(config: ml_collections.ConfigDict, num_classes: int, axis_name: str | None = None) -> WideResNet:
  """The network of `config.model`; `axis_name` is the pmapped axis over which BN takes its batch statistics."""
  return WideResNet(config.depth, config.width, config.block, num_classes, jnp.dtype(config.dtype), axis_name)
