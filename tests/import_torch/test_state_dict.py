"""Which files are read, and which are refused before anything in them runs."""

import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from moonshine_jax.errors import UserError
from moonshine_jax.import_torch.state_dict import read_state_dict
from tests.import_torch.conftest import wide_resnet_arrays


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


FILES = {
  'module.': lambda arrays: under('module.', arrays),
  '_orig_mod.module.': lambda arrays: under('_orig_mod.module.', arrays),
  'module._orig_mod.module.': lambda arrays: under('module._orig_mod.module.', arrays),
  'backbone.': lambda arrays: under('backbone.', arrays),
  'module.student.': lambda arrays: under('module.student.', arrays),
  'of AveragedModel': lambda arrays: {'n_averaged': np.array(7), **under('module.', arrays)},
  'a compiled layer': lambda arrays: {name.replace('layer.0.', 'layer.0._orig_mod.'): x for name, x in arrays.items()},
}


def under(prefix, arrays):
  return {prefix + name: array for name, array in arrays.items()}


@pytest.mark.parametrize('name', FILES)
def test_prefixes_are_taken_off_and_told(name, tmp_path, capsys):
  save_file(FILES[name](wide_resnet_arrays()), tmp_path / 'a.safetensors')
  arrays = read_state_dict(tmp_path / 'a.safetensors')
  assert arrays.keys() == wide_resnet_arrays().keys()
  prefix = 'module.' if name == 'of AveragedModel' else name if name.endswith('.') else ''
  told = f'{tmp_path}/a.safetensors: the network is read without the prefix {prefix} of its names\n'
  assert capsys.readouterr().out == (told if prefix else '')


def test_of_several_networks_one_is_taken_and_told(tmp_path, capsys):
  raw, path = wide_resnet_arrays(), tmp_path / 'a.safetensors'
  average = {name: array + 1 for name, array in raw.items()}
  for averaged_key, key in (
    ('model_ema.module.', 'model.'),
    ('teacher.', 'student.'),
    ('module.', ''),
    ('ema.', ''),
  ):
    save_file({**under(averaged_key, average), **under(key, raw)}, path)
    arrays = read_state_dict(path)
    assert arrays.keys() == raw.keys()
    np.testing.assert_array_equal(arrays['fc.bias'], raw['fc.bias'])
    names = averaged_key.split('.')[0], key.removesuffix('.') or 'no key'
    listed = ', '.join(sorted(names)) if key else f'no key, {names[0]}'
    line = f'{path}: holds 2 networks, under {listed}: taken is that under {names[1]}: expected '
    assert capsys.readouterr().err == f'warning: {line}--state={names[0]} for another\n'
    np.testing.assert_array_equal(read_state_dict(path, names[0])['fc.bias'], average['fc.bias'])
    assert capsys.readouterr().err == ''
  with pytest.raises(UserError, match=f'^--state=swa: {path} holds networks under no key, ema: expected one of these$'):
    read_state_dict(path, 'swa')


def test_what_stands_beside_a_network_is_left_out_where_the_user_says_so(tmp_path):
  path = tmp_path / 'a.safetensors'
  save_file({**under('backbone.', wide_resnet_arrays()), 'projector.weight': np.ones((2, 2), np.float32)}, path)
  with pytest.raises(UserError, match='projector.weight stands beside the network under backbone: .* --state=backbone'):
    read_state_dict(path)
  assert read_state_dict(path, 'backbone').keys() == wide_resnet_arrays().keys()


@pytest.mark.filterwarnings('ignore:Validating sparse tensor:UserWarning')  # PyTorch's, from 2.14 on
def test_wrappers_are_taken_off_and_objects_are_not_made(networks, tmp_path):
  import torch

  network, path = networks.randomise(networks.WideResNet(10, 1, 3)), tmp_path / 'weights.pt'
  plain = network.state_dict()
  prefixed = {f'module.{name}': value for name, value in plain.items()}
  optimizer = {'state': {0: {'momentum_buffer': plain['fc.weight']}}, 'param_groups': [{'params': [0]}]}
  for saved in (
    plain,
    {'net': prefixed, 'epoch': 3},
    {'state_dict': plain, 'model': 'WRN'},
    {'model': prefixed},
    {'epoch': 3, 'optimizer': optimizer, 'weights': {'student': plain}},
  ):
    torch.save(saved, path)
    arrays = read_state_dict(path)
    assert arrays.keys() == {name for name in plain if not name.endswith('num_batches_tracked')}
    np.testing.assert_array_equal(arrays['fc.weight'], plain['fc.weight'])
  marker = tmp_path / 'marker'
  for saved, message in (
    (network, 'it holds a Python object .*WideResNet.*, and reading that would run its code: expected a state dict'),
    ({'net': plain, 'x': Malicious(marker)}, 'it holds a Python object '),
    ({'net': network.state_dict, 'epoch': 3}, 'it holds a Python object '),
    ({'epoch': 3}, "it holds {'epoch': 3}, and no tensor"),
    ({**plain, 'fc.weight': torch.eye(3).to_sparse()}, "'fc.weight' is no dense tensor"),
    ([1, 2], 'it holds a list'),
    ({}, 'it holds {}'),
  ):
    torch.save(saved, path)
    with pytest.raises(UserError, match=f'^{path}: {message}'):
      read_state_dict(path)
  assert not marker.exists()
