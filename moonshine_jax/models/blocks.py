"""The paper's convolutional blocks (Table 1), their notation, and the Flax module that builds them.

A block is a list of convolutions, each preceded by batch normalisation and ReLU, beside a shortcut:

| notation  | convolutions                                                                            |
|-----------|-----------------------------------------------------------------------------------------|
| `S`       | 3x3, 3x3                                                                                |
| `S-2x2`   | the same with 2x2 kernels, dilated by 2                                                 |
| `G(g)`    | 3x3 in g groups (in to in), 1x1 (in to out), 3x3 in g groups (out to out), 1x1          |
| `B(b)`    | 1x1 (in to m = out/b), 3x3 (m to m), 1x1 (m to out)                                     |
| `BG(b,g)` | as `B(b)`, the 3x3 in g groups                                                          |

The number of groups g is an integer, or a fraction of the channels that the grouped convolution sees, called N in `G`
and M in `BG`: `N` is depthwise, `N/8` has 8 channels in each group. The block's stride is that of its first kxk
convolution.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from moonshine_jax.errors import shown
from moonshine_jax.ops import batch_norm, grouped_conv

# The paper's and the released code's; the momentum is the share of the running statistics that a step keeps.
BN_MOMENTUM, BN_EPSILON = 0.9, 1e-5

MAX_NOTATION = 10_000  # characters of a list of notations: the deepest network's, one for each block, has 6,000
NOTATIONS = 'S, S-2x2, G(g), B(b) or BG(b,g), with g an integer or N, N/2, ... in G and M, M/2, ... in BG'


@dataclasses.dataclass(frozen=True)
class Convolution:
  """A convolution of a block, with a square kernel.

  Attributes:
    kernel: size of the kernel, k of k x k.
    features: output channels.
    strides: stride along both axes.
    groups: number of groups.
    dilation: distance of the kernel's taps, in pixels.
  """

  kernel: int
  features: int
  strides: int = 1
  groups: int = 1
  dilation: int = 1

  @property
  def padding(self) -> int:
    """The zeros on each side, as in PyTorch: the output has ceil(size / strides) pixels for the blocks' kernels."""
    return self.dilation * (self.kernel - 1) // 2


@dataclasses.dataclass(frozen=True)
class Block:
  """A block of Table 1, for any number of channels.

  Attributes:
    kind: 'S', 'S-2x2', 'G', 'B' or 'BG'.
    bottleneck: b, the factor by which `B` and `BG` contract the output channels.
    groups: g where the notation gives a number, else None.
    group_size: k where the notation gives N/k or M/k channels (1 for N and M alone), else None.
  """

  kind: str
  bottleneck: int = 1
  groups: int | None = 1
  group_size: int | None = None

  @classmethod
  def parse(cls, notation: str) -> 'Block':
    """Parses a notation such as 'BG(2,M/8)'. Raises ValueError for what is none."""
    match = re.fullmatch(r'(S-2x2|S|BG|B|G)(?:\(([^()]*)\))?', notation.replace(' ', ''))
    kind, arguments = (match[1], match[2]) if match else (None, None)
    arguments = arguments.split(',') if arguments is not None else []
    if kind is None or len(arguments) != {'S': 0, 'S-2x2': 0, 'G': 1, 'B': 1, 'BG': 2}[kind]:
      raise ValueError(f'{shown(notation)} is not a block: expected {NOTATIONS}')
    bottleneck = 1
    groups: int | None = 1
    group_size: int | None = None
    if kind in ('B', 'BG'):
      bottleneck = _positive_integer(arguments[0], notation)
    if kind in ('G', 'BG'):
      letter = 'N' if kind == 'G' else 'M'
      fraction = re.fullmatch(rf'{letter}(?:/(.*))?', arguments[-1])
      if fraction:
        groups, group_size = None, _positive_integer('1' if fraction[1] is None else fraction[1], notation)
      else:
        groups = _positive_integer(arguments[-1], notation)
    return cls(kind, bottleneck, groups, group_size)

  @classmethod
  def parse_list(cls, notations: str) -> tuple['Block', ...]:
    """Parses notations separated by commas, such as 'S,G(2),BG(2,M/8)'. Raises ValueError for what is none."""
    if len(notations) > MAX_NOTATION:
      raise ValueError(f'{len(notations):,} characters of notation: expected at most {MAX_NOTATION:,}')
    return tuple(cls.parse(notation) for notation in re.split(r',(?![^()]*\))', notations))

  def __str__(self) -> str:
    """Returns the notation that parses to this block."""
    groups = str(self.groups)
    if self.groups is None:
      groups = ('N' if self.kind == 'G' else 'M') + ('' if self.group_size == 1 else f'/{self.group_size}')
    return {'G': f'G({groups})', 'B': f'B({self.bottleneck})', 'BG': f'BG({self.bottleneck},{groups})'}.get(
      self.kind, self.kind
    )

  def convolutions(self, in_features: int, out_features: int, strides: int) -> tuple[Convolution, ...]:
    """Returns the block's convolutions. Raises ValueError where the channels cannot be divided into its groups."""
    if self.kind in ('S', 'S-2x2'):
      kernel, dilation = (3, 1) if self.kind == 'S' else (2, 2)
      return (
        Convolution(kernel, out_features, strides, dilation=dilation),
        Convolution(kernel, out_features, dilation=dilation),
      )
    if self.kind == 'G':
      return (
        Convolution(3, in_features, strides, self._groups_of(in_features)),
        Convolution(1, out_features),
        Convolution(3, out_features, 1, self._groups_of(out_features)),
        Convolution(1, out_features),
      )
    if out_features % self.bottleneck:
      raise ValueError(f'block {self}: {self.bottleneck} does not divide the {out_features} channels that it contracts')
    middle = out_features // self.bottleneck
    return (
      Convolution(1, middle),
      Convolution(3, middle, strides, self._groups_of(middle)),
      Convolution(1, out_features),
    )

  def _groups_of(self, channels: int) -> int:
    """Returns the number of groups for a number of channels; one group where N/k or M/k is below one."""
    if self.group_size is None:
      assert self.groups is not None  # one of the two is given
      if channels % self.groups:
        raise ValueError(f'block {self}: {self.groups} groups do not divide the {channels} channels that they split')
      return self.groups
    if channels > self.group_size and channels % self.group_size:
      raise ValueError(
        f'block {self}: groups of {self.group_size} channels do not divide the {channels} channels that they split'
      )
    return max(channels // self.group_size, 1)


def _positive_integer(text: str, notation: str) -> int:
  # The length is bounded because Python refuses to convert numbers of thousands of digits.
  if not re.fullmatch(r'0*[1-9][0-9]{0,8}', text, re.ASCII):
    raise ValueError(f'{shown(notation)} is not a block: {shown(text)} is not a positive integer; expected {NOTATIONS}')
  return int(text)


class ResidualBlock(nn.Module):
  """A pre-activation residual block of any kind of Table 1.

  When the channels change, the first BN+ReLU is shared by both branches and the shortcut is a 1x1 convolution with the
  block's stride; otherwise the shortcut is the raw input.

  Attributes:
    block: which block of Table 1.
    features: output channels.
    strides: strides of the first kxk convolution and of the shortcut.
    dtype: dtype of the computation; parameters and BN statistics are float32.
    axis_name: the pmapped axis over which BN takes its batch statistics, or None.
  """

  block: Block
  features: int
  strides: int = 1
  dtype: Any = jnp.float32
  axis_name: str | None = None

  @nn.compact
  def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
    """(batch, height, width, channels) -> (batch, ceil(height / strides), ceil(width / strides), features)."""
    convolutions = self.block.convolutions(inputs.shape[-1], self.features, self.strides)
    branch = BatchNormReLU(self.axis_name, name='bn1')(inputs, train)
    shortcut = inputs
    if inputs.shape[-1] != self.features:
      shortcut = convolve(Convolution(1, self.features, self.strides), branch, self.dtype, 'shortcut')
    branch = convolve(convolutions[0], branch, self.dtype, 'conv1')
    for i, convolution in enumerate(convolutions[1:], start=2):
      branch = BatchNormReLU(self.axis_name, name=f'bn{i}')(branch, train)
      branch = convolve(convolution, branch, self.dtype, f'conv{i}')
    return shortcut + branch


def conv_init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
  """Draws a kernel as the released code: normal, of variance 2 / (k * k * out_channels), the groups not divided out."""
  fan_out = math.prod(shape) // shape[-2]
  return _draw(jax.random.normal, key, shape, dtype, square=2 / fan_out)


def fc_init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
  """Draws the weights of a linear layer as PyTorch: uniform within 1 / sqrt(inputs), of variance 1 / (3 * inputs)."""
  fan_in = math.prod(shape) // shape[-1]
  return _draw(functools.partial(jax.random.uniform, minval=-1), key, shape, dtype, square=1 / fan_in)


def _draw(
  distribution: Callable[..., jax.Array], key: jax.Array, shape: Sequence[int], dtype: Any, square: float
) -> jax.Array:
  """Draws numbers and multiplies them by the root of `square`, all in one row, then gives them their shape.

  The numbers do not depend on the shape. XLA:CPU unrolls the loops over the few rows, columns and channels of a kernel,
  and takes 1 to 3 seconds to compile them for each shape in a network; for one row it takes a fifth of that.
  """
  row = distribution(key, (math.prod(shape),), dtype) * jnp.sqrt(jnp.asarray(square, dtype))
  return row.reshape(shape)


def convolve(convolution: Convolution, inputs: jax.Array, dtype: Any, name: str) -> jax.Array:
  """Adds a convolution without bias to the calling compact module and applies it to NHWC inputs."""
  return nn.Conv(
    features=convolution.features,
    kernel_size=(convolution.kernel, convolution.kernel),
    strides=convolution.strides,
    padding=convolution.padding,
    kernel_dilation=convolution.dilation,
    feature_group_count=convolution.groups,
    use_bias=False,
    dtype=dtype,
    kernel_init=conv_init,
    conv_general_dilated=grouped_conv.conv_general_dilated,
    name=name,
  )(inputs)


class BatchNormReLU(nn.Module):
  """Batch normalisation and ReLU, with float32 parameters and statistics named as in `nn.BatchNorm`.

  Attributes:
    axis_name: the pmapped axis over which the statistics of the batch are taken, or None.
  """

  axis_name: str | None = None

  @nn.compact
  def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
    """(..., channels) -> the same shape; by the batch's statistics when training, else by the running statistics."""
    channels = inputs.shape[-1:]
    mean = self.variable('batch_stats', 'mean', jnp.zeros, channels, jnp.float32)
    var = self.variable('batch_stats', 'var', jnp.ones, channels, jnp.float32)
    scale = self.param('scale', nn.initializers.ones, channels, jnp.float32)
    bias = self.param('bias', nn.initializers.zeros, channels, jnp.float32)
    if not train:
      return batch_norm.normalise_relu(inputs, mean.value, var.value, scale, bias, BN_EPSILON)
    outputs, batch_mean, batch_var = batch_norm.batch_norm_relu(inputs, scale, bias, BN_EPSILON, self.axis_name)
    if self.is_mutable_collection('batch_stats') and not self.is_initializing():
      mean.value = BN_MOMENTUM * mean.value + (1 - BN_MOMENTUM) * batch_mean
      var.value = BN_MOMENTUM * var.value + (1 - BN_MOMENTUM) * batch_var
    return outputs
