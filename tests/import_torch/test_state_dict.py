"""Which files are read, and which are refused before anything in them runs."""

import sys
from pathlib import Path

import numpy as np
import pytest

from moonshine_jax.errors import UserError
from moonshine_jax.import_torch.state_dict import read_state_dict


@pytest.mark.parametrize(
  ('name', 'text', 'message'),
  [
    ('none.pt', None, 'no such file: expected a state dict: in PyTorch, torch.save'),
    ('torn.safetensors', 'torn', 'not a safetensors file that can be read'),
    ('torn.pt', 'torn', 'not a file of torch.save that can be read'),
  ],
)
def test_files_that_cannot_be_read(name, text, message, tmp_path):
  if name == 'torn.pt':
    pytest.importorskip('torch')
  if text:
    (tmp_path / name).write_text(text)
  with pytest.raises(UserError, match=f'^{tmp_path / name}: {message}'):
    read_state_dict(tmp_path / name)


def test_without_pytorch_the_line_says_what_to_install(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  (tmp_path / 'weights.pt').touch()
  with pytest.raises(UserError, match=r"needs PyTorch: pip install 'moonshine-jax\[torch\]'; or save .*safetensors"):
    read_state_dict(tmp_path / 'weights.pt')


class Malicious:
  """Makes a file where it is unpickled."""

  def __init__(self, path):
    self._path = path

  def __reduce__(self):
    return Path.touch, (self._path,)


def test_wrappers_are_taken_off_and_objects_are_not_made(networks, tmp_path):
  import torch

  network, path = networks.randomise(networks.WideResNet(10, 1, 3)), tmp_path / 'weights.pt'
  plain = network.state_dict()
  prefixed = {f'module.{name}': value for name, value in plain.items()}
  for saved in (plain, {'net': prefixed, 'epoch': 3}, {'state_dict': plain, 'model': 'WRN'}, {'model': prefixed}):
    torch.save(saved, path)
    arrays = read_state_dict(path)
    assert arrays.keys() == {name for name in plain if not name.endswith('num_batches_tracked')}
    np.testing.assert_array_equal(arrays['fc.weight'], plain['fc.weight'])
  marker = tmp_path / 'marker'
  for saved, message in (
    (network, 'it holds a Python object .*WideResNet.*, and reading that would run its code: expected a state dict'),
    ({'net': plain, 'x': Malicious(marker)}, 'it holds a Python object '),
    ({'net': network.state_dict, 'epoch': 3}, 'it holds a Python object '),
    ({'epoch': 3, 'weights': plain}, "'epoch' is no dense tensor, and none of state_dict, .*, model is there"),
    ({'fc.weight': torch.eye(3).to_sparse()}, "'fc.weight' is no dense tensor"),
    ([1, 2], 'it holds a list'),
    ({}, 'it holds {}'),
  ):
    torch.save(saved, path)
    with pytest.raises(UserError, match=f'^{path}: {message}'):
      read_state_dict(path)
  assert not marker.exists()
