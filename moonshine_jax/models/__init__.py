"""Networks as Flax linen modules that return `(logits, activations)`, by the config's `model.network`."""

import flax.linen as nn
import jax.numpy as jnp
import ml_collections

from moonshine_jax.errors import UserError, shown
from moonshine_jax.models import wide_resnet

NETWORKS = ('wide_resnet',)


def create_model(config: ml_collections.ConfigDict, num_classes: int, axis_name: str | None = None) -> nn.Module:
  """The network of `config.model`; `axis_name` is the pmapped axis over which BN takes its batch statistics."""
  return wide_resnet.WideResNet(
    config.depth, config.width, config.block, num_classes, jnp.dtype(config.dtype), axis_name)


def name(config: ml_collections.ConfigDict) -> str:
  """What the network of `config.model` is called, whatever its blocks: 'WRN-40-2'."""
  return f'WRN-{config.depth}-{config.width}'


def check(config: ml_collections.ConfigDict) -> None:
  """Raises UserError, naming the field, where `config.model` is of no network that can be built."""
  if config.network not in NETWORKS:
    raise UserError(f'config.model.network={config.network!r}: expected {", ".join(NETWORKS)}')
  try:
    wide_resnet.blocks_per_group(config.depth)
  except ValueError as error:
    raise UserError(f'config.model.depth={config.depth}: {error}') from error
  try:
    wide_resnet.check(config.depth, config.width, config.block)
  except ValueError as error:
    raise UserError(f'config.model.block={shown(config.block)}: {error}') from error
