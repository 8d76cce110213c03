"""Networks in PyTorch, of random numbers, with the names of the code bases that `import_torch` knows."""

import torch
from torch import nn
from torch.nn import functional


def convolution(in_features, out_features, kernel=3, stride=1, groups=1, dilation=1):
  padding = dilation * (kernel - 1) // 2
  return nn.Conv2d(in_features, out_features, kernel, stride, padding, dilation, groups, bias=False)


class Plain(nn.Module):
  """A convolution in a module, as in the paper's code."""

  def __init__(self, in_features, out_features, stride, kernel=3, dilation=1):
    super().__init__()
    self.conv = convolution(in_features, out_features, kernel, stride, dilation=dilation)

  def forward(self, x):
    return self.conv(x)


class Separable(nn.Module):
  def __init__(self, in_features, out_features, stride, groups_of):
    super().__init__()
    self.convdw = convolution(in_features, in_features, 3, stride, groups_of(in_features))
    self.bn = nn.BatchNorm2d(in_features)
    self.conv1x1 = convolution(in_features, out_features, 1)

  def forward(self, x):
    return self.conv1x1(functional.relu(self.bn(self.convdw(x))))


class Bottleneck(nn.Module):
  """A bottleneck with a 3x3 convolution called `name`: 'conv', or 'convdw' where it is depthwise."""

  def __init__(self, in_features, out_features, stride, factor, groups_of, name='conv'):
    super().__init__()
    features = out_features // factor
    self.conv1x1_down = convolution(in_features, features, 1)
    self.bn1 = nn.BatchNorm2d(features)
    setattr(self, name, convolution(features, features, 3, stride, groups_of(features)))
    self.bn2 = nn.BatchNorm2d(features)
    self.conv1x1_up = convolution(features, out_features, 1)
    self._name = name

  def forward(self, x):
    x = functional.relu(self.bn1(self.conv1x1_down(x)))
    return self.conv1x1_up(functional.relu(self.bn2(getattr(self, self._name)(x))))


class Block(nn.Module):
  """A block of one unit of `make(in_features, out_features, stride)` or of two, with BN and ReLU before each."""

  def __init__(self, in_features, out_features, stride, make, units):
    super().__init__()
    self.bn1 = nn.BatchNorm2d(in_features)
    self.conv1 = make(in_features, out_features, stride)
    if units == 2:
      self.bn2 = nn.BatchNorm2d(out_features)
      self.conv2 = make(out_features, out_features, 1)
    if in_features != out_features:
      self.convShortcut = convolution(in_features, out_features, 1, stride)

  def forward(self, x):
    out = functional.relu(self.bn1(x))
    if hasattr(self, 'convShortcut'):
      x = self.convShortcut(out)
    out = self.conv1(out)
    if hasattr(self, 'conv2'):
      out = self.conv2(functional.relu(self.bn2(out)))
    return x + out


class Part(nn.Module):
  def __init__(self, blocks):
    super().__init__()
    self.layer = nn.Sequential(*blocks)

  def forward(self, x):
    return self.layer(x)


class WideResNet(nn.Module):
  """(batch, 3, height, width) to (batch, num_classes); a group is one `Part`, or with `parts` a list of so many."""

  def __init__(self, depth, width, num_classes, make=None, units=2, parts=None):
    super().__init__()
    make = make or (lambda in_features, out_features, stride: convolution(in_features, out_features, 3, stride))
    self.conv1 = convolution(3, 16)
    features = 16
    for group, stride in ((1, 1), (2, 2), (3, 2)):
      blocks = []
      for i in range((depth - 4) // 6):
        blocks.append(Block(features, 8 * width * 2**group, 1 if i else stride, make, units))
        features = 8 * width * 2**group
      size = len(blocks) // (parts or 1)
      modules = [Part(blocks[i : i + size]) for i in range(0, len(blocks), size)]
      setattr(self, f'block{group}', nn.ModuleList(modules) if parts else modules[0])
    self.bn1 = nn.BatchNorm2d(features)
    self.fc = nn.Linear(features, num_classes)

  def forward(self, x):
    x = self.conv1(x)
    for group in (self.block1, self.block2, self.block3):
      for part in group if isinstance(group, nn.ModuleList) else [group]:
        x = part(x)
    return self.fc(functional.relu(self.bn1(x)).mean((2, 3)))


class ResidualBlock(nn.Module):
  """A block of torchvision, basic (two 3x3 convolutions) or bottleneck (1x1, 3x3, 1x1 to four times the features)."""

  def __init__(self, in_features, features, stride, bottleneck):
    super().__init__()
    out_features = features * (4 if bottleneck else 1)
    kernels = (1, 3, 1) if bottleneck else (3, 3)
    channels = (in_features, *[features] * (len(kernels) - 1), out_features)
    self._number = len(kernels)
    for i, kernel in enumerate(kernels):
      strides = stride if i == kernels.index(3) else 1
      setattr(self, f'conv{i + 1}', convolution(channels[i], channels[i + 1], kernel, strides))
      setattr(self, f'bn{i + 1}', nn.BatchNorm2d(channels[i + 1]))
    self.downsample = None
    if stride > 1 or in_features != out_features:
      self.downsample = nn.Sequential(convolution(in_features, out_features, 1, stride), nn.BatchNorm2d(out_features))

  def forward(self, x):
    out = x
    for i in range(1, self._number + 1):
      out = getattr(self, f'bn{i}')(getattr(self, f'conv{i}')(out))
      out = functional.relu(out) if i < self._number else out
    return functional.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
  """A ResNet of torchvision, (batch, 3, height, width) to (batch, num_classes)."""

  def __init__(self, stages, bottleneck, num_classes):
    super().__init__()
    self.conv1 = convolution(3, 64, 7, 2)
    self.bn1 = nn.BatchNorm2d(64)
    channels = 64
    for i, number in enumerate(stages):
      blocks = []
      for j in range(number):
        blocks.append(ResidualBlock(channels, 64 * 2**i, 2 if i and not j else 1, bottleneck))
        channels = 64 * 2**i * (4 if bottleneck else 1)
      setattr(self, f'layer{i + 1}', nn.Sequential(*blocks))
    self.fc = nn.Linear(channels, num_classes)

  def forward(self, x):
    x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
    for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
      x = stage(x)
    return self.fc(x.mean((2, 3)))


@torch.no_grad()
def randomise(network):
  """Gives a network random numbers and BN the statistics that go with them, and puts it into evaluation mode."""
  generator = torch.Generator().manual_seed(0)
  for module in network.modules():
    if isinstance(module, nn.BatchNorm2d):
      module.momentum = None  # the running statistics are those of the images below
      module.weight.uniform_(0.5, 1.5, generator=generator)
      module.bias.uniform_(-0.3, 0.3, generator=generator)
    elif isinstance(module, nn.Conv2d | nn.Linear):
      module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5, generator=generator)
  network.train()(5 * torch.rand((16, 3, 48, 48), generator=generator) - 2.4)  # as `logits` normalises noise
  return network.eval()


@torch.no_grad()
def logits(network, images, mean, std):
  """Computes logits of uint8 images (batch, height, width, channels) after `ToTensor` and `Normalize(mean, std)`."""
  inputs = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[
    :, None, None
  ]
  return network(inputs).numpy()
