"""Recognises the network of a PyTorch state dict, and where each array goes, by the names and shapes of its arrays.

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

Arrays = dict[str, np.ndarray]  # of a state dict, by name
Path = tuple[str, ...]  # in the variables of a Flax module: a collection, modules, a leaf

# The leaves of each kind of module: PyTorch's name of a leaf, and Flax's collection and name.
CONVOLUTION = {'weight': ('params', 'kernel')}
LINEAR = {'weight': ('params', 'kernel'), 'bias': ('params', 'bias')}
BATCH_NORM = {
  'weight': ('params', 'scale'),
  'bias': ('params', 'bias'),
  'running_mean': ('batch_stats', 'mean'),
  'running_var': ('batch_stats', 'var'),
}

# The modules of each kind of block of a Wide ResNet, as they are applied: BN with ReLU and a convolution in turn.
BLOCK_MODULES = (
  ('bn1', 'conv1', 'bn2', 'conv2'),
  ('bn1', 'conv1.conv', 'bn2', 'conv2.conv'),
  ('bn1', 'conv1.convdw', 'conv1.bn', 'conv1.conv1x1', 'bn2', 'conv2.convdw', 'conv2.bn', 'conv2.conv1x1'),
  ('bn1', 'conv1.conv1x1_down', 'conv1.bn1', 'conv1.conv', 'conv1.bn2', 'conv1.conv1x1_up'),
  ('bn1', 'conv1.conv1x1_down', 'conv1.bn1', 'conv1.convdw', 'conv1.bn2', 'conv1.conv1x1_up'),
)


class RecognisedArchitecture(NamedTuple):
  """The network that a state dict is of.

  Attributes:
    model: the fields of `config.model` that say which network it is.
    paths: for each array, by its name, the path in the variables of the Flax module.
  """

  model: dict[str, str | int]
  paths: dict[str, Path]


def recognise(arrays: Arrays) -> RecognisedArchitecture:
  """Recognises the architecture of a state dict.

  Args:
    arrays: of the state dict, by name.

  Returns:
    The network, and where each array goes.

  Raises:
    ValueError: where it is no network that is known, with what is missing or unknown.
  """
  if any(name.startswith('block1.') for name in arrays):
    return recognise_wide_resnet(arrays)
  if any(name.startswith('layer1.') for name in arrays):
    return recognise_resnet(arrays)
  raise ValueError(
    f'the names are of no network that is known ({shorten(arrays)}): expected those of a Wide ResNet, as '
    'block1.layer.0.conv1.weight, or of a ResNet of torchvision, as layer1.0.conv1.weight'
  )


def recognise_wide_resnet(arrays: Arrays) -> RecognisedArchitecture:
  """Recognises a Wide ResNet with any of the paper's blocks (Table 1).

  Args:
    arrays: of the state dict, by name.

  Returns:
    The network, and where each array goes.

  Raises:
    ValueError: where it is none, with what is missing or unknown.
  """
  groups = [_blocks_of_group(arrays, group) for group in (1, 2, 3)]
  if len({len(blocks) for blocks in groups}) != 1:
    raise ValueError(
      f'block1, block2 and block3 have {", ".join(str(len(blocks)) for blocks in groups)} layers: '
      'expected as many in each'
    )
  channels = _input_features_of_fc(arrays)
  if channels % 64:
    raise ValueError(f'fc.weight takes {channels} channels: expected 64 times the width of a Wide ResNet')
  width = channels // 64

  paths = _module('conv1', CONVOLUTION, 'conv1')
  convolution_weights = []  # for each block, the names of its weights
  for group, blocks in enumerate(groups, start=2):
    for i, torch_block in enumerate(blocks, start=1):
      modules = max(BLOCK_MODULES, key=lambda names: sum(f'{torch_block}.{name}.weight' in arrays for name in names))
      flax_block = f'conv{group}_block{i}'
      for j, (bn, convolution) in enumerate(zip(modules[::2], modules[1::2], strict=True), start=1):
        paths |= _module(f'{torch_block}.{bn}', BATCH_NORM, flax_block, f'bn{j}')
        paths |= _module(f'{torch_block}.{convolution}', CONVOLUTION, flax_block, f'conv{j}')
      if i == 1 and (group > 2 or width > 1):
        paths |= _module(f'{torch_block}.convShortcut', CONVOLUTION, flax_block, 'shortcut')
      convolution_weights.append([f'{torch_block}.{name}.weight' for name in modules[1::2]])
  paths |= _module('bn1', BATCH_NORM, 'bn') | _module('fc', LINEAR, 'fc')
  _check(arrays, paths)
  notations = [_notations([arrays[name].shape for name in names]) for names in convolution_weights]
  common = [notation for notation in notations[0] if all(notation in others for others in notations)]
  block = common[0] if common else ','.join(block_notations[0] for block_notations in notations)
  model: dict[str, str | int] = {
    'network': 'wide_resnet',
    'depth': 6 * len(groups[0]) + 4,
    'width': width,
    'block': block,
  }
  return RecognisedArchitecture(model, paths)


def recognise_resnet(arrays: Arrays) -> RecognisedArchitecture:
  """Recognises a ResNet-18, 34 or 50 of torchvision.

  Args:
    arrays: of the state dict, by name.

  Returns:
    The network, and where each array goes.

  Raises:
    ValueError: where it is none, with what is missing or unknown.
  """
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
      torch_block, flax_block = f'layer{stage}.{i}', f'layer{stage}_{i}'
      for j in range(1, 4 if bottleneck else 3):
        paths |= _module(f'{torch_block}.conv{j}', CONVOLUTION, flax_block, f'conv{j}')
        paths |= _module(f'{torch_block}.bn{j}', BATCH_NORM, flax_block, f'bn{j}')
      if i == 0 and (stage > 1 or bottleneck):
        paths |= _module(f'{torch_block}.downsample.0', CONVOLUTION, flax_block, 'downsample_0')
        paths |= _module(f'{torch_block}.downsample.1', BATCH_NORM, flax_block, 'downsample_1')
  paths |= _module('fc', LINEAR, 'fc')
  _check(arrays, paths)
  return RecognisedArchitecture({'network': 'resnet', 'depth': depths[0], 'width': 1, 'block': 'S'}, paths)


def _blocks_of_group(arrays: Arrays, group: int) -> list[str]:
  """Lists the prefixes of a group's blocks in order, as 'block1.layer.0', or 'block1.0.layer.0' with the part first."""
  prefixes = {}  # by part and layer
  for name in arrays:
    if match := re.match(rf'block{group}\.(?:(\d{{1,4}})\.)?layer\.(\d{{1,4}})(?=\.)', name):
      prefixes[int(match[1] or 0), int(match[2])] = match[0]
  parts = len({part for part, _ in prefixes})
  if parts and sorted(prefixes) != list(itertools.product(range(parts), range(len(prefixes) // parts))):
    raise ValueError(f'block{group} has the layers {shorten(prefixes.values())}: expected them without gaps')
  return [prefixes[part, layer] for part, layer in sorted(prefixes)]


def _notations(shapes: list[tuple[int, ...]]) -> list[str]:
  """Lists the notations of a block with convolution weights of these shapes (out, in / groups, k, k).

  Notations with N or M, the number of channels, come first.
  """
  if len(shapes) == 2:
    return ['S-2x2' if shapes[0][-1] == 2 else 'S']
  features, group_size = shapes[-2][:2]  # of the (last) grouped convolution
  groups = features // group_size
  if len(shapes) == 4:
    first, first_size = shapes[0][:2]  # of the first grouped convolution, which may have fewer channels
    notations = [f'G(N/{group_size})'] * (first_size == min(first, group_size))
    notations += [f'G({groups})'] * (first // first_size == groups)
    if not notations:
      raise ValueError(
        f'a block has grouped convolutions of {first // first_size} groups of {first_size} channels and {groups} of '
        f'{group_size}: expected as many groups, or groups of the same size'
      )
  else:
    bottleneck = shapes[-1][0] // features
    notations = [f'B({bottleneck})'] if groups == 1 else []
    notations += [f'BG({bottleneck},M/{group_size})', f'BG({bottleneck},{groups})']
  return [str(Block.parse(notation)) for notation in notations]


def _module(torch_name: str, leaves: dict[str, tuple[str, str]], *flax_path: str) -> dict[str, Path]:
  """Returns the paths of a module's leaves by PyTorch's names."""
  return {f'{torch_name}.{name}': (collection, *flax_path, leaf) for name, (collection, leaf) in leaves.items()}


def _input_features_of_fc(arrays: Arrays) -> int:
  """Returns the number of channels that the fully connected layer takes."""
  if 'fc.weight' not in arrays or arrays['fc.weight'].ndim != 2:
    raise ValueError('no fc.weight of two dimensions in it: expected the fully connected layer of the classes')
  return arrays['fc.weight'].shape[1]


def _check(arrays: Arrays, paths: dict[str, Path]) -> None:
  """Raises ValueError where names are missing or unknown, or arrays are of other dimensions, or cannot be."""
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
      'negative variances': [
        name for name, path in paths.items() if path[-1] == 'var' and name in arrays and (arrays[name] < 0).any()
      ],
    }
  )


def refuse(mistakes: dict[str, list[str]]) -> None:
  """Refuses a state dict in one line.

  Args:
    mistakes: for each kind of mistake, the names of the arrays that have it.

  Raises:
    ValueError: where there is any mistake.
  """
  lists = [f'{kind}: {shorten(names)}' for kind, names in mistakes.items() if names]
  if lists:
    raise ValueError('; '.join(lists))


def shorten(names: Iterable[str], most: int = 6) -> str:
  """Joins names with commas; where there are more than `most`, gives the number of the rest."""
  names = list(names)
  return ', '.join(names[:most]) + (f' and {len(names) - most} more' if len(names) > most else '')
