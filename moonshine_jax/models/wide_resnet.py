"""Wide residual networks (Table 2 of the paper; Zagoruyko and Komodakis, 2016) of any of the paper's blocks."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from moonshine_jax.models.blocks import BatchNormReLU, Block, Convolution, ResidualBlock, convolve, fc_init

STEM_FEATURES = 16
GROUP_STRIDES = (1, 2, 2)  # strides of conv2, conv3 and conv4

# The limits of `check_wide_resnet`, above any network that was published: the deepest, ResNet-1202 (He et al., 2016),
# has this depth as a WRN, and the widest have widths of some 20. To train, a parameter takes 12 bytes: itself, its
# gradient and its momentum.
MAX_DEPTH = 1204
MAX_WIDTH = 1000
MAX_PARAMETERS = 10**9


class WideResNet(nn.Module):
  """WRN-depth-width: a stem of 16 channels, 3 groups of (depth - 4) / 6 blocks, average pool, fully connected layer.

  Attributes:
    depth: 6n + 4.
    width: the factor k of the groups' 16k, 32k and 64k channels.
    block: a notation of `models.blocks`; or three, one for each group; or one for each of the 3n blocks, as a sequence
      or separated by commas.
    num_classes: size of the logits.
    dtype: dtype of the computation, float32 or bfloat16; parameters, BN statistics and logits are float32.
    axis_name: the pmapped axis over which BN takes its batch statistics, or None.
  """

  depth: int
  width: int
  block: str | Sequence[str]
  num_classes: int
  dtype: Any = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Applies the network to normalised images.

    Args:
      images: (batch, height, width, channels).
      train: whether BN uses the statistics of the batch, and updates the running ones if they are mutable.

    Returns:
      logits: float32 (batch, num_classes).
      activations: the raw outputs of conv2, conv3 and conv4, (batch, height / s, width / s, channels), s = 1, 2, 4.
    """
    x = convolve(Convolution(3, STEM_FEATURES), images, self.dtype, 'conv1')
    activations = []
    for group, blocks in enumerate(group_blocks(self.depth, self.block)):
      for i, block in enumerate(blocks):
        x = ResidualBlock(
          block=block,
          features=group_features(self.width)[group],
          strides=GROUP_STRIDES[group] if i == 0 else 1,
          dtype=self.dtype,
          axis_name=self.axis_name,
          name=f'conv{group + 2}_block{i + 1}',
        )(x, train)
      activations.append(x)
    x = BatchNormReLU(self.axis_name, name='bn')(x, train)
    x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
    return nn.Dense(self.num_classes, kernel_init=fc_init, name='fc')(x), tuple(activations)


def group_features(width: int) -> tuple[int, int, int]:
  """Returns the channels of conv2, conv3 and conv4 for a width factor."""
  return 16 * width, 32 * width, 64 * width


def blocks_per_group(depth: int) -> int:
  """Returns n of depth = 6n + 4. Raises ValueError for another depth, or one above MAX_DEPTH."""
  if depth > MAX_DEPTH:
    raise ValueError(f'expected a depth of at most {MAX_DEPTH}')
  if depth < 10 or (depth - 4) % 6:
    lower = max(depth - (depth - 4) % 6, 10)
    raise ValueError(f'a depth is 6n + 4 with n of at least 1: the nearest are {lower} and {lower + 6}')
  return (depth - 4) // 6


def group_blocks(depth: int, block: str | Sequence[str]) -> tuple[tuple[Block, ...], ...]:
  """Returns the blocks of conv2, conv3 and conv4.

  Raises:
    ValueError: for a depth or a number of notations that does not fit.
  """
  n = blocks_per_group(depth)
  blocks = Block.parse_list(block) if isinstance(block, str) else tuple(map(Block.parse, block))
  if len(blocks) not in (1, 3, 3 * n):
    raise ValueError(f'{len(blocks)} blocks: expected 1, 3 (one for each group) or {3 * n} (every block of this depth)')
  return tuple(tuple(blocks[(group * n + i) * len(blocks) // (3 * n)] for i in range(n)) for group in range(3))


class Architecture(NamedTuple):
  """The fields of a network by name: a WRN-depth-width and the notation of its blocks."""

  depth: int
  width: int
  block: str

  @classmethod
  def parse(cls, name: str) -> 'Architecture':
    """Parses 'WRN-16-2 S', or 'G(N/8)' alone for WRN-40-2. Raises ValueError where there is no such network."""
    match = re.fullmatch(r'(?:WRN-(\d{1,9})-([1-9]\d{0,8}) +)?(\S.*)', name)
    if match is None:
      raise ValueError(f'{name!r} is no network: expected one as "G(N/8)" or "WRN-16-2 S"')
    architecture = cls(int(match[1] or 40), int(match[2] or 2), match[3])
    check_wide_resnet(*architecture)
    return architecture

  def __str__(self) -> str:
    return f'WRN-{self.depth}-{self.width} {self.block}'


def check_wide_resnet(depth: int, width: int, block: str | Sequence[str]) -> None:
  """Raises ValueError, with a message that says what would be right, where no such network can be built."""
  if not 1 <= width <= MAX_WIDTH:
    raise ValueError(f'expected a width from 1 to {MAX_WIDTH}')
  in_features, parameters = STEM_FEATURES, 0
  for blocks, features, strides in zip(group_blocks(depth, block), group_features(width), GROUP_STRIDES, strict=True):
    for i, residual_block in enumerate(blocks):
      if in_features != features:
        parameters += in_features * features  # the shortcut
      for convolution in residual_block.convolutions(in_features, features, strides if i == 0 else 1):
        parameters += convolution.kernel**2 * in_features // convolution.groups * convolution.features
        in_features = convolution.features
  if parameters > MAX_PARAMETERS:
    raise ValueError(
      f'WRN-{depth}-{width} of such blocks has {parameters:,} parameters in its convolutions: '
      f'expected at most {MAX_PARAMETERS:,}'
    )
