"""Which network a PyTorch state dict is of, and where each of its arrays goes, by the names and shapes in it.

Wide ResNets have the names of xternalz/WideResNet-pytorch and its many copies, as `block1.layer.0.conv1.weight`, or of
the paper's own code (BayesWatch/pytorch-moonshine), where a group is a list of parts and a cheap convolution a module,
as `block1.0.layer.0.conv1.conv1x1_down.weight`. ResNets have torchvision's, as `layer1.0.conv1.weight`.
"""

import itertools
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from moonshine_jax.models import resnet
from moonshine_jax.models.blocks import Block

Arrays = dict[str, np.ndarray]  # a state dict's, by name
Path = tuple[str, ...]  # in the variables of a Flax module: its collection, its modules, its leaf

# The leaves of each kind of module: PyTorch's name for it, and Flax's collection and name.
CONVOLUTION = {'weight': ('params', 'kernel')}
LINEAR = {'weight': ('params', 'kernel'), 'bias': ('params', 'bias')}
BATCH_NORM = {
  'weight': ('params', 'scale'),
  'bias': ('params', 'bias'),
  'running_mean': ('batch_stats', 'mean'),
  'running_var': ('batch_stats', 'var'),
}

# The modules of a Wide ResNet's block, as they are applied: BN with ReLU and a convolution in turn.
BLOCKS = (
  ('bn1', 'conv1', 'bn2', 'conv2'),
  ('bn1', 'conv1.conv', 'bn2', 'conv2.conv'),
  ('bn1', 'conv1.convdw', 'conv1.bn', 'conv1.conv1x1', 'bn2', 'conv2.convdw', 'conv2.bn', 'conv2.conv1x1'),
  ('bn1', 'conv1.conv1x1_down', 'conv1.bn1', 'conv1.conv', 'conv1.bn2', 'conv1.conv1x1_up'),
  ('bn1', 'conv1.conv1x1_down', 'conv1.bn1', 'conv1.convdw', 'conv1.bn2', 'conv1.conv1x1_up'),
)


class Architecture(NamedTuple):
  """What a state dict is of.

  Attributes:
    model: the fields of `config.model` that say it.
    paths: where each array goes, by its name.
  """

  model: dict[str, str | int]
  paths: dict[str, Path]


def recognise(arrays: Arrays) -> Architecture:
  """The architecture of a state dict. Raises ValueError, with what is missing or unknown, where it is none of ours."""
  if any(name.startswith('block1.') for name in arrays):
    return recognise_wide_resnet(arrays)
  if any(name.startswith('layer1.') for name in arrays):
    return recognise_resnet(arrays)
  raise ValueError(
    f'the names are of no network that is known ({listed(arrays)}): expected those of a Wide ResNet, as '
    'block1.layer.0.conv1.weight, or of a ResNet of torchvision, as layer1.0.conv1.weight'
  )


def recognise_wide_resnet(arrays: Arrays) -> Architecture:
  """A Wide ResNet of any of the paper's blocks. Raises ValueError."""
  groups = [_blocks_of_group(arrays, group) for group in (1, 2, 3)]
  if len({len(blocks) for blocks in groups}) != 1:
    raise ValueError(
      f'block1, block2 and block3 have {", ".join(str(len(blocks)) for blocks in groups)} layers: '
      'expected as many in each'
    )
  channels = _features_of_fc(arrays)
  if channels % 64:
    raise ValueError(f'fc.weight takes {channels} channels: expected 64 times the width of a Wide ResNet')
  width = channels // 64

  paths = _module('conv1', CONVOLUTION, 'conv1')
  convolutions = []  # of each block, the names of their weights
  for group, blocks in enumerate(groups, start=2):
    for i, theirs in enumerate(blocks, start=1):
      modules = max(BLOCKS, key=lambda each: sum(f'{theirs}.{name}.weight' in arrays for name in each))
      ours = f'conv{group}_block{i}'
      for j, (bn, convolution) in enumerate(zip(modules[::2], modules[1::2], strict=True), start=1):
        paths |= _module(f'{theirs}.{bn}', BATCH_NORM, ours, f'bn{j}')
        paths |= _module(f'{theirs}.{convolution}', CONVOLUTION, ours, f'conv{j}')
      if i == 1 and (group > 2 or width > 1):
        paths |= _module(f'{theirs}.convShortcut', CONVOLUTION, ours, 'shortcut')
      convolutions.append([f'{theirs}.{name}.weight' for name in modules[1::2]])
  paths |= _module('bn1', BATCH_NORM, 'bn') | _module('fc', LINEAR, 'fc')
  _check(arrays, paths)
  notations = [_notations([arrays[name].shape for name in names]) for names in convolutions]
  common = [each for each in notations[0] if all(each in others for others in notations)]
  block = common[0] if common else ','.join(each[0] for each in notations)
  model = {'network': 'wide_resnet', 'depth': 6 * len(groups[0]) + 4, 'width': width, 'block': block}
  return Architecture(model, paths)


def recognise_resnet(arrays: Arrays) -> Architecture:
  """A ResNet-18, 34 or 50. Raises ValueError."""
  stages = [
    len({match[1] for name in arrays if (match := re.match(rf'layer{stage}\.(\d+)\.', name))}) for stage in (1, 2, 3, 4)
  ]
  bottleneck = 'layer1.0.conv3.weight' in arrays
  depths = [
    depth
    for depth, blocks in resnet.BLOCKS_PER_STAGE.items()
    if blocks == tuple(stages) and (depth in resnet.BOTTLENECK_DEPTHS) == bottleneck
  ]
  if not depths:
    raise ValueError(
      f'layer1 to layer4 have {", ".join(map(str, stages))} {"bottleneck" if bottleneck else "basic"} '
      f'blocks: expected those of ResNet-{", ".join(map(str, resnet.BLOCKS_PER_STAGE))}'
    )
  paths = _module('conv1', CONVOLUTION, 'conv1') | _module('bn1', BATCH_NORM, 'bn1')
  for stage, blocks in enumerate(stages, start=1):
    for i in range(blocks):
      theirs, ours = f'layer{stage}.{i}', f'layer{stage}_{i}'
      for j in range(1, 4 if bottleneck else 3):
        paths |= _module(f'{theirs}.conv{j}', CONVOLUTION, ours, f'conv{j}')
        paths |= _module(f'{theirs}.bn{j}', BATCH_NORM, ours, f'bn{j}')
      if i == 0 and (stage > 1 or bottleneck):
        paths |= _module(f'{theirs}.downsample.0', CONVOLUTION, ours, 'downsample_0')
        paths |= _module(f'{theirs}.downsample.1', BATCH_NORM, ours, 'downsample_1')
  paths |= _module('fc', LINEAR, 'fc')
  _check(arrays, paths)
  return Architecture({'network': 'resnet', 'depth': depths[0], 'width': 1, 'block': 'S'}, paths)


def _blocks_of_group(arrays: Arrays, group: int) -> list[str]:
  """The prefixes of a group's blocks, in order: 'block1.layer.0' or, with the first 0 the part, 'block1.0.layer.0'."""
  found = {}
  for name in arrays:
    if match := re.match(rf'block{group}\.(?:(\d{{1,4}})\.)?layer\.(\d{{1,4}})(?=\.)', name):
      found[int(match[1] or 0), int(match[2])] = match[0]
  parts = len({part for part, _ in found})
  if parts and sorted(found) != list(itertools.product(range(parts), range(len(found) // parts))):
    raise ValueError(f'block{group} has the layers {listed(found.values())}: expected them without gaps')
  return [found[each] for each in sorted(found)]


def _notations(shapes: list[tuple[int, ...]]) -> list[str]:
  """What a block with convolutions of these weights (out, in / groups, k, k) may be called; names with N or M first."""
  if len(shapes) == 2:
    return ['S-2x2' if shapes[0][-1] == 2 else 'S']
  features, group_size = shapes[-2][:2]  # of the (last) grouped convolution
  groups = features // group_size
  if len(shapes) == 4:
    notations = [f'G(N/{group_size})', f'G({groups})']
  else:
    bottleneck = shapes[-1][0] // features
    notations = [f'B({bottleneck})'] if groups == 1 else []
    notations += [f'BG({bottleneck},M/{group_size})', f'BG({bottleneck},{groups})']
  return [str(Block.parse(each)) for each in notations]


def _module(theirs: str, kind: dict[str, tuple[str, str]], *ours: str) -> dict[str, Path]:
  """The paths of a module's leaves by PyTorch's names."""
  return {f'{theirs}.{name}': (collection, *ours, leaf) for name, (collection, leaf) in kind.items()}


def _features_of_fc(arrays: Arrays) -> int:
  """The channels that the fully connected layer takes."""
  if 'fc.weight' not in arrays or arrays['fc.weight'].ndim != 2:
    raise ValueError('no fc.weight of two dimensions in it: expected the fully connected layer of the classes')
  return arrays['fc.weight'].shape[1]


def _check(arrays: Arrays, paths: dict[str, Path]) -> None:
  """Raises ValueError where names are missing or unknown, or an array is not of its kind's dimensions or not finite."""
  dimensions = {name: 1 if path[-1] != 'kernel' else 2 if path[-2] == 'fc' else 4 for name, path in paths.items()}
  refuse(
    {
      'missing': [name for name in paths if name not in arrays],
      'unknown': [name for name in arrays if name not in paths],
      'of other dimensions': [
        f'{name} {arrays[name].shape}'
        for name in paths
        if name in arrays and (arrays[name].ndim != dimensions[name] or not arrays[name].size)
      ],
      'not finite': [name for name in paths if name in arrays and not np.isfinite(arrays[name]).all()],
    }
  )


def refuse(mistakes: dict[str, list[str]]) -> None:
  """Raises ValueError with the kinds of mistakes that there are, each with its names."""
  found = [f'{kind}: {listed(names)}' for kind, names in mistakes.items() if names]
  if found:
    raise ValueError('; '.join(found))


def listed(names: Iterable[str], most: int = 6) -> str:
  """The names in a line, shortened where there are many."""
  names = list(names)
  return ', '.join(names[:most]) + (f' and {len(names) - most} more' if len(names) > most else '')
