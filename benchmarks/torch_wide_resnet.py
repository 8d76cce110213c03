"""The paper's networks and their train step in PyTorch, with which `benchmarks/train_step.py` compares ours.

Written from Tables 1 and 2 of the paper, as the authors' code has them: pre-activation, no bias in a convolution, the
first BN and ReLU shared by both branches where the channels change. ReLU works in place, as it does in the authors'
code.
"""

import contextlib
import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from moonshine_jax.models.blocks import Block, Convolution
from moonshine_jax.models.wide_resnet import GROUP_STRIDES, STEM_FEATURES, group_blocks, group_features


class WideResNet(nn.Module):
  """WRN-depth-width with blocks by notation: images (batch, channels, height, width) to logits (batch, num_classes)."""

  def __init__(self, depth: int, width: int, block: str, num_classes: int):
    super().__init__()
    self.stem = make_convolution(3, Convolution(3, STEM_FEATURES))
    self.blocks = nn.ModuleList()
    channels = STEM_FEATURES
    for blocks, features, strides in zip(group_blocks(depth, block), group_features(width), GROUP_STRIDES, strict=True):
      for i, block_type in enumerate(blocks):
        self.blocks.append(ResidualBlock(block_type, channels, features, strides if i == 0 else 1))
        channels = features
    self.bn = nn.BatchNorm2d(channels)
    self.fc = nn.Linear(channels, num_classes)
    nn.init.zeros_(self.fc.bias)

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Computes the logits."""
    x = self.stem(images)
    for block in self.blocks:
      x = block(x)
    return self.fc(functional.relu(self.bn(x), inplace=True).mean((2, 3)))


class ResidualBlock(nn.Module):
  """A block of Table 1 with its shortcut: `bns[i]` and ReLU come before `convolutions[i]`."""

  def __init__(self, block: Block, in_features: int, out_features: int, strides: int):
    super().__init__()
    self.bns, self.convolutions = nn.ModuleList(), nn.ModuleList()
    channels = in_features
    for convolution in block.convolutions(in_features, out_features, strides):
      self.bns.append(nn.BatchNorm2d(channels))
      self.convolutions.append(make_convolution(channels, convolution))
      channels = convolution.features
    self.shortcut = None
    if in_features != out_features:
      self.shortcut = make_convolution(in_features, Convolution(1, out_features, strides))

  def forward(self, inputs: torch.Tensor) -> torch.Tensor:
    """Computes the sum of the branch and the shortcut."""
    branch = functional.relu(self.bns[0](inputs), inplace=True)
    shortcut = inputs if self.shortcut is None else self.shortcut(branch)
    branch = self.convolutions[0](branch)
    for bn, convolution in zip(self.bns[1:], self.convolutions[1:], strict=True):
      branch = convolution(functional.relu(bn(branch), inplace=True))
    return shortcut + branch


def make_convolution(in_features: int, convolution: Convolution) -> nn.Conv2d:
  """Makes a convolution with the initial values of the authors' released code."""
  module = nn.Conv2d(
    in_features,
    convolution.features,
    convolution.kernel,
    convolution.strides,
    convolution.padding,
    convolution.dilation,
    convolution.groups,
    bias=False,
  )
  nn.init.normal_(module.weight, std=math.sqrt(2 / (convolution.kernel**2 * convolution.features)))
  return module


def make_train_step(
  network: nn.Module, images: torch.Tensor, labels: torch.Tensor, dtype: str, channels_last: bool, compiled: bool
) -> Callable[[int], None]:
  """Makes the paper's train step on one batch: cross entropy, and SGD with momentum and weight decay.

  Args:
    network: on the device that it trains on; it is changed.
    images: normalised, (batch, channels, height, width), on that device; neither augmented nor copied in a step.
    labels: (batch,), on that device.
    dtype: 'float32', or 'bfloat16' for autocasting.
    channels_last: whether images and weights lie in memory as NHWC; else NCHW, as the authors' code has them.
    compiled: whether `torch.compile` compiles the network; else training is eager.

  Returns:
    A function that takes a given number of steps and waits for them.
  """
  memory_format = torch.channels_last if channels_last else torch.contiguous_format
  network = network.to(memory_format=memory_format).train()
  images = images.to(memory_format=memory_format)
  optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
  forward = torch.compile(network) if compiled else network
  device = images.device.type
  precision = contextlib.nullcontext if dtype == 'float32' else lambda: torch.autocast(device, torch.bfloat16)

  def run(steps):
    for _ in range(steps):
      optimizer.zero_grad()
      with precision():
        loss = functional.cross_entropy(forward(images), labels)
      loss.backward()
      optimizer.step()
    if device == 'cuda':
      torch.cuda.synchronize()

  return run


def configure_for_speed(device: str, cores: int) -> None:
  """Sets PyTorch to use so many cores, and on a GPU the fastest of cuDNN's algorithms."""
  torch.set_num_threads(cores)
  torch.backends.cudnn.benchmark = device == 'cuda'


def torch_device_for(backend: str) -> str | None:
  """Returns PyTorch's name for the device of a JAX backend; None where this PyTorch cannot use it."""
  return {'cpu': 'cpu', 'gpu': 'cuda' if torch.cuda.is_available() else None}.get(backend)
