"""Networks as Flax linen modules that return `(logits, activations)`, by the config's `model.network`."""

import flax.linen as nn
import jax.numpy as jnp
import ml_collections

from moonshine_jax.errors import UserError, shown
from moonshine_jax.models import resnet, wide_resnet

NETWORKS = ('wide_resnet', 'resnet')


def create_model(config: ml_collections.ConfigDict, num_classes: int, axis_name: str | None = None) -> nn.Module:
  """The network of `config.model`; `axis_name` is the pmapped axis over which BN takes its batch statistics."""
  dtype = jnp.dtype(config.dtype)
  if config.network == 'resnet':
    return resnet.ResNet(config.depth, config.block, num_classes, dtype, axis_name)
  return wide_resnet.WideResNet(config.depth, config.width, config.block, num_classes, dtype, axis_name)


def name(config: ml_collections.ConfigDict) -> str:
  """What the network of `config.model` is called, whatever its blocks: 'WRN-40-2', 'ResNet-18'."""
  return f'ResNet-{config.depth}' if config.network == 'resnet' else f'WRN-{config.depth}-{config.width}'


def check(config: ml_collections.ConfigDict) -> None:
  """Raises UserError, naming the field, where `config.model` is of no network that can be built."""
  if config.network not in NETWORKS:
    raise UserError(f'config.model.network={config.network!r}: expected {", ".join(NETWORKS)}')
  if config.network == 'resnet':
    _check_resnet(config)
    return
  try:
    wide_resnet.blocks_per_group(config.depth)
  except ValueError as error:
    raise UserError(f'config.model.depth={config.depth}: {error}') from error
  try:
    wide_resnet.check(config.depth, config.width, config.block)
  except ValueError as error:
    raise UserError(f'config.model.block={shown(config.block)}: {error}') from error


def _check_resnet(config: ml_collections.ConfigDict) -> None:
  if config.depth not in resnet.BLOCKS_PER_STAGE:
    depths = ', '.join(map(str, resnet.BLOCKS_PER_STAGE))
    raise UserError(f'config.model.depth={config.depth}: expected {depths} for a resnet')
  if config.width != 1:
    raise UserError(f'config.model.width={config.width}: expected 1 for a resnet')
  try:
    resnet.check(config.depth, config.block)
  except ValueError as error:
    raise UserError(f'config.model.block={shown(config.block)}: {error}') from error
