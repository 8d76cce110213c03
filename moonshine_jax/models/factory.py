"""Networks by the config's `model.network`: Flax linen modules that return `(logits, activations)`."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import flax.linen as nn
import jax.numpy as jnp
import ml_collections

from moonshine_jax.errors import UserError, shown
from moonshine_jax.models import resnet, user, wide_resnet
from moonshine_jax.models.network import Network
from moonshine_jax.runtime import user_functions

if TYPE_CHECKING:  # neither of models and data imports the other
  from moonshine_jax.data.splits import Facts

NETWORKS = ('wide_resnet', 'resnet')


def create_network(config: ml_collections.ConfigDict, facts: 'Facts', axis_name: str | None = None) -> Network:
  """Builds the network of `config.model` for a data set, with the normalisation of its images.

  Args:
    config: `config.model`.
    facts: of the data: the shape of the images, the number of classes, and the mean and the standard deviation of each
      channel's pixels, in the units of uint8.
    axis_name: the pmapped axis over which BN takes its batch statistics, or None.

  Returns:
    The network, called with uint8 images (batch, height, width, channels).

  Raises:
    UserError: where a user-defined network cannot be built.
  """
  model = create_model(config, facts.num_classes, axis_name, facts.image_shape)
  return Network(model, facts.mean, facts.std)


def create_model(
  config: ml_collections.ConfigDict,
  num_classes: int,
  axis_name: str | None = None,
  image_shape: Sequence[int] = (32, 32, 3),
) -> nn.Module:
  """Builds the linen module of `config.model`.

  Args:
    config: `config.model`.
    num_classes: size of the logits.
    axis_name: the pmapped axis over which BN takes its batch statistics, or None.
    image_shape: (height, width, channels) with which a user-defined network is traced; the others do not depend on it.

  Returns:
    A module that is called with normalised images and returns (logits, activations).

  Raises:
    UserError: where a user-defined network cannot be built.
  """
  if is_user_defined(config):
    return user.create_user_model(
      config.network, config.block, num_classes, tuple(image_shape), config.dtype, axis_name
    )
  dtype = jnp.dtype(config.dtype)
  if config.network == 'resnet':
    return resnet.ResNet(config.depth, config.block, num_classes, dtype, axis_name)
  return wide_resnet.WideResNet(config.depth, config.width, config.block, num_classes, dtype, axis_name)


def is_user_defined(config: ml_collections.ConfigDict) -> bool:
  """Whether the network of `config.model` is a user's function, 'package.module:function' or 'file.py:function'."""
  return user_functions.is_name(config.network)


def network_name(config: ml_collections.ConfigDict) -> str:
  """Returns the name of the network of `config.model` without its blocks: 'WRN-40-2', 'ResNet-18', or a function's."""
  if is_user_defined(config):
    return user_functions.short_name(config.network)
  if config.network == 'resnet':
    return f'ResNet-{config.depth}'
  return f'WRN-{config.depth}-{config.width}'


def parse_model(text: str) -> ml_collections.ConfigDict:
  """Returns the `config.model`, in float32, of a network's name and block.

  Args:
    text: 'WRN-16-2 S', or 'G(N/8)' alone for WRN-40-2; 'ResNet-18 G(N/8)', or a function's name in place of ResNet-18.
      Without a block, ResNet-18 and a function have S.

  Raises:
    UserError: where there is no such network.
  """
  fields = {'network': 'wide_resnet', 'depth': 1, 'width': 1, 'dtype': 'float32'}
  if match := re.fullmatch(rf'({user_functions.NAME.pattern})(?: +(\S.*))?', text):
    fields |= {'network': match[1], 'block': match[2] or 'S'}
  elif match := re.fullmatch(r'ResNet-(\d{1,9})(?: +(\S.*))?', text):
    fields |= {'network': 'resnet', 'depth': int(match[1]), 'block': match[2] or 'S'}
  else:
    try:
      fields |= wide_resnet.Architecture.parse(text)._asdict()
    except ValueError as error:
      raise UserError(str(error)) from error
  config = ml_collections.ConfigDict(fields)
  check_model(config)
  return config


def activation_names(model: nn.Module, number: int) -> tuple[str, ...]:
  """Names the activations of a network, of which there are `number`: as in the papers, else by numbers."""
  has_paper_names = isinstance(model, wide_resnet.WideResNet | resnet.ResNet)
  return tuple(f'conv{i + 2}' if has_paper_names else f'map {i + 1}' for i in range(number))


def check_model(config: ml_collections.ConfigDict, load: bool = True) -> None:
  """Raises UserError, naming the field, where the network of `config.model` cannot be built.

  Args:
    config: `config.model`.
    load: whether a user's function is loaded, which runs its file.
  """
  if is_user_defined(config):
    user.check_user_model(config.network, config.block, config.dtype, load)
    return
  if config.network not in NETWORKS:
    raise UserError(
      f'config.model.network={shown(config.network)}: expected {", ".join(NETWORKS)}, or a function of '
      'yours, as package.module:function or path/file.py:function'
    )
  if config.network == 'resnet':
    _check_resnet(config)
  else:
    _check_wide_resnet(config)


def _check_resnet(config: ml_collections.ConfigDict) -> None:
  if config.depth not in resnet.BLOCKS_PER_STAGE:
    depths = ', '.join(map(str, resnet.BLOCKS_PER_STAGE))
    raise UserError(f'config.model.depth={config.depth}: expected {depths} for a resnet')
  if config.width != 1:
    raise UserError(f'config.model.width={config.width}: expected 1 for a resnet')
  try:
    resnet.check_resnet(config.depth, config.block)
  except ValueError as error:
    raise UserError(f'config.model.block={shown(config.block)}: {error}') from error


def _check_wide_resnet(config: ml_collections.ConfigDict) -> None:
  try:
    wide_resnet.blocks_per_group(config.depth)
  except ValueError as error:
    raise UserError(f'config.model.depth={config.depth}: {error}') from error
  try:
    wide_resnet.check_wide_resnet(config.depth, config.width, config.block)
  except ValueError as error:
    raise UserError(f'config.model.block={shown(config.block)}: {error}') from error
