"""ResNets (He et al., 2016) as in torchvision, of any of the paper's blocks: ResNet-18, 34 and 50.

A ResNet is a 7x7 convolution of stride 2 to 64 channels, a max pool, four stages of post-activation residual blocks,
average pool and a fully connected layer. Modules are named as in torchvision, with an underscore before a number that
names a part of a sequence: torchvision's `layer1.0.downsample.1` is `layer1_0/downsample_1`.

The table says how each notation replaces a residual block. BN follows every convolution, ReLU every BN but the last; a
second ReLU follows the addition of the shortcut.

| notation  | basic block (ResNet-18, 34), as in Table 1   | bottleneck block (ResNet-50), m = out/4           |
|-----------|----------------------------------------------|---------------------------------------------------|
| `S`       | the original: 3x3, 3x3                       | the original: 1x1 (in to m), 3x3, 1x1 (m to out)  |
| `S-2x2`   | the same with 2x2 kernels, dilated by 2      | its 3x3 becomes 2x2, dilated by 2                 |
| `G(g)`    | each 3x3 becomes 3x3 in g groups and 1x1     | its 3x3 in g groups; the 1x1 follows it anyway    |
| `B(b)`    | 1x1 (in to out/b), 3x3, 1x1 (out/b to out)   | the same as in a basic block: `B(4)` is `S`       |
| `BG(b,g)` | as `B(b)`, the 3x3 in g groups               | the same: `BG(4,g)` is `G(g)`                     |

The stride is that of the first kxk convolution, in a bottleneck block too (v1.5). The stem and the shortcuts stay.
"""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from moonshine_jax.models.blocks import (
  BN_EPSILON,
  BN_MOMENTUM,
  BatchNormReLU,
  Block,
  Convolution,
  convolve,
  fc_init,
)

_STEM_FEATURES = 64
BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}  # by depth
BOTTLENECK_DEPTHS = (50,)
EXPANSION = 4  # the factor by which a bottleneck block contracts its output channels


class ResNet(nn.Module):
  """ResNet-18, 34 or 50 for images of any size, whose four stages can have other blocks.

  Attributes:
    depth: 18, 34 or 50.
    block: a notation of `models.blocks`; or four, one for each stage, or one for every block, separated by commas.
    num_classes: size of the logits.
    dtype: dtype of the computation, float32 or bfloat16; parameters, BN statistics and logits are float32.
    axis_name: the pmapped axis over which BN takes its batch statistics, or None.
  """

  depth: int
  block: str
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
      activations: the outputs of the four stages, (batch, ceil(height / s), ceil(width / s), channels), s = 4, 8, 16,
        32.
    """
    x = convolve(Convolution(7, _STEM_FEATURES, strides=2), images, self.dtype, 'conv1')
    x = BatchNormReLU(self.axis_name, name='bn1')(x, train)
    x = MaxPool(name='maxpool')(x)
    activations = []
    for stage, blocks in enumerate(stage_blocks(self.depth, self.block)):
      features = stage_features(self.depth)[stage]
      for i, block in enumerate(blocks):
        strides = 2 if stage > 0 and i == 0 else 1
        x = PostActivationBlock(
          convolutions=residual_convolutions(self.depth, block, x.shape[-1], features, strides),
          strides=strides,
          dtype=self.dtype,
          axis_name=self.axis_name,
          name=f'layer{stage + 1}_{i}',
        )(x, train)
      activations.append(x)
    x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
    return nn.Dense(self.num_classes, kernel_init=fc_init, name='fc')(x), tuple(activations)


class PostActivationBlock(nn.Module):
  """A residual block whose convolutions are each followed by BN and, but for the last, by ReLU.

  The shortcut is added to their output, then comes a ReLU. The shortcut is the input, or a 1x1 convolution and BN where
  the channels or the size change.

  Attributes:
    convolutions: the convolutions of the branch.
    strides: strides of the whole block.
    dtype: dtype of the computation; parameters and BN statistics are float32.
    axis_name: the pmapped axis over which BN takes its batch statistics, or None.
  """

  convolutions: tuple[Convolution, ...]
  strides: int
  dtype: Any
  axis_name: str | None

  @nn.compact
  def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
    """(batch, height, width, channels) -> (batch, ceil(height / strides), ceil(width / strides), features)."""
    branch = inputs
    for i, convolution in enumerate(self.convolutions[:-1], start=1):
      branch = convolve(convolution, branch, self.dtype, f'conv{i}')
      branch = BatchNormReLU(self.axis_name, name=f'bn{i}')(branch, train)
    last, number = self.convolutions[-1], len(self.convolutions)
    branch = self._batch_norm(convolve(last, branch, self.dtype, f'conv{number}'), train, f'bn{number}')
    shortcut = inputs
    if inputs.shape != branch.shape:
      projection = Convolution(1, last.features, self.strides)
      shortcut = self._batch_norm(convolve(projection, inputs, self.dtype, 'downsample_0'), train, 'downsample_1')
    return jax.nn.relu(shortcut + branch)

  def _batch_norm(self, x: jax.Array, train: bool, name: str) -> jax.Array:
    """Applies BN that no ReLU follows."""
    return nn.BatchNorm(
      use_running_average=not train,
      momentum=BN_MOMENTUM,
      epsilon=BN_EPSILON,
      dtype=self.dtype,
      axis_name=self.axis_name,
      name=name,
    )(x)


class MaxPool(nn.Module):
  """A max pool of 3x3 with a stride of 2."""

  @nn.compact
  def __call__(self, inputs: jax.Array) -> jax.Array:
    """(batch, height, width, channels) -> (batch, ceil(height / 2), ceil(width / 2), channels)."""
    return nn.max_pool(inputs, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def stage_features(depth: int) -> tuple[int, ...]:
  """Returns the output channels of the four stages."""
  expansion = EXPANSION if depth in BOTTLENECK_DEPTHS else 1
  return tuple(expansion * _STEM_FEATURES * 2**stage for stage in range(4))


def stage_blocks(depth: int, block: str) -> tuple[tuple[Block, ...], ...]:
  """Parses the blocks of the four stages. Raises ValueError for what is no block, or another number of notations."""
  blocks, numbers = Block.parse_list(block), BLOCKS_PER_STAGE[depth]
  if len(blocks) not in (1, 4, sum(numbers)):
    raise ValueError(
      f'{len(blocks)} blocks: expected 1, 4 (one for each stage) or {sum(numbers)} (every block of this depth)'
    )
  if len(blocks) == 1:
    blocks *= 4
  if len(blocks) == 4:
    return tuple(number * (block,) for block, number in zip(blocks, numbers, strict=True))
  ends = itertools.accumulate(numbers)
  return tuple(blocks[end - number : end] for end, number in zip(ends, numbers, strict=True))


def residual_convolutions(
  depth: int, block: Block, in_features: int, out_features: int, strides: int
) -> tuple[Convolution, ...]:
  """Returns the convolutions of a residual block, by the table of this module.

  Raises:
    ValueError: where the channels cannot be divided into the block's groups.
  """
  if depth not in BOTTLENECK_DEPTHS or block.kind in ('B', 'BG'):
    return block.convolutions(in_features, out_features, strides)
  middle = out_features // EXPANSION
  spatial = block.convolutions(middle, middle, strides)[0]
  return Convolution(1, middle), spatial, Convolution(1, out_features)


def check_resnet(depth: int, block: str) -> None:
  """Raises ValueError, with a message that says what would be right, where the blocks do not fit the channels."""
  in_features = _STEM_FEATURES
  for blocks, features in zip(stage_blocks(depth, block), stage_features(depth), strict=True):
    for residual_block in blocks:
      residual_convolutions(depth, residual_block, in_features, features, strides=1)
      in_features = features
