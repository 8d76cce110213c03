"""State dicts: files of arrays, and networks in PyTorch."""

import numpy as np
import pytest
from safetensors.numpy import save_file


@pytest.fixture(scope='module')
def networks():
  """The module of networks in PyTorch; skips a test where PyTorch is not installed."""
  pytest.importorskip('torch')
  from tests.helpers import torch_networks

  return torch_networks


def wide_resnet_arrays(num_classes=3, channels=3):
  """Makes the state dict of a WRN-10-1: random arrays by the names of xternalz/WideResNet-pytorch."""
  rng = np.random.default_rng(0)
  shapes = {'conv1.weight': (16, channels, 3, 3), 'fc.weight': (num_classes, 64), 'fc.bias': (num_classes,)}
  batch_norms = {'bn1': 64}
  for group, (before, after) in enumerate([(16, 16), (16, 32), (32, 64)], start=1):
    layer = f'block{group}.layer.0'
    shapes |= {f'{layer}.conv1.weight': (after, before, 3, 3), f'{layer}.conv2.weight': (after, after, 3, 3)}
    batch_norms |= {f'{layer}.bn1': before, f'{layer}.bn2': after}
    if before != after:
      shapes[f'{layer}.convShortcut.weight'] = (after, before, 1, 1)
  for name, features in batch_norms.items():
    shapes |= {f'{name}.{leaf}': (features,) for leaf in ('weight', 'bias', 'running_mean', 'running_var')}
  return {name: rng.uniform(0.1, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def write(tmp_path):
  """A function that writes the state dict of `wide_resnet_arrays`, changed by a function, as a safetensors file."""

  def write(change=lambda arrays: None, **kwargs):
    arrays = wide_resnet_arrays(**kwargs)
    change(arrays)
    save_file(arrays, tmp_path / 'weights.safetensors')
    return tmp_path / 'weights.safetensors'

  return write
