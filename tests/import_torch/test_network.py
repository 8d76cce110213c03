import functools
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from moonshine_jax.data import sources
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError
from moonshine_jax.import_torch import architectures, network, state_dict
from moonshine_jax.import_torch.network import import_network, variables_of
from moonshine_jax.models.factory import create_network
from moonshine_jax.training import evaluation, pretrained
from moonshine_jax.workdir import checkpoint

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # of the paper's own code


@pytest.fixture(scope='module')
def networks():
  """The networks in PyTorch."""
  pytest.importorskip('torch')
  from tests.helpers import torch_networks

  return torch_networks


def wide_resnet_arrays(num_classes=3, channels=3):
  """The state dict of a WRN-10-1 by hand: random arrays by the names of xternalz/WideResNet-pytorch."""
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
  """Writes arrays, changed as asked, as a safetensors file."""

  def write(change=lambda arrays: None, **kwargs):
    arrays = wide_resnet_arrays(**kwargs)
    change(arrays)
    save_file(arrays, tmp_path / 'weights.safetensors')
    return tmp_path / 'weights.safetensors'

  return write


def test_every_array_goes_where_it_belongs(write, config, tmp_path):
  path = write(lambda arrays: arrays.update({'bn1.num_batches_tracked': np.array(7)}))
  run, facts, record = import_network(path, config, tmp_path / 'run', (MEAN, STD))
  assert (run.model.network, run.model.depth, run.model.width, run.model.block) == ('wide_resnet', 10, 1, 'S')
  np.testing.assert_allclose(facts.mean, (125.307, 122.961, 113.8575))
  network, variables, metadata = checkpoint.Checkpoints(tmp_path / 'run').network()
  assert metadata.facts == facts and network.std == facts.std
  arrays, params, batch_stats = wide_resnet_arrays(), variables['params'], variables['batch_stats']
  block = 'block2.layer.0'
  assert params['conv3_block1']['conv1']['kernel'][0, 2, 5, 7] == arrays[f'{block}.conv1.weight'][7, 5, 0, 2]
  assert params['conv3_block1']['shortcut']['kernel'][0, 0, 5, 7] == arrays[f'{block}.convShortcut.weight'][7, 5, 0, 0]
  for ours, theirs in (
    (params['conv3_block1']['bn2']['scale'], f'{block}.bn2.weight'),
    (params['bn']['bias'], 'bn1.bias'),
    (batch_stats['bn']['mean'], 'bn1.running_mean'),
    (batch_stats['conv4_block1']['bn1']['var'], 'block3.layer.0.bn1.running_var'),
    (params['fc']['kernel'].T, 'fc.weight'),
    (params['fc']['bias'], 'fc.bias'),
  ):
    np.testing.assert_array_equal(ours, arrays[theirs])
  assert evaluation.evaluate_workdir(tmp_path / 'run')['test_error'] == record['test_error']


def without(*names):
  return lambda arrays: [arrays.pop(name) for name in names]


def adding(name, *shape):
  return lambda arrays: arrays.update({name: np.ones(shape, np.float32)})


def spoilt(name):
  def change(arrays):
    arrays[name][0] = np.nan

  return change


REFUSED = {
  'missing': (without('fc.bias', 'block1.layer.0.conv2.weight'), 'missing: block1.layer.0.conv2.weight, fc.bias$'),
  'unknown': (adding('conv1.bias', 16), 'unknown: conv1.bias$'),
  'both, and many': (
    lambda arrays: [
      arrays.update({f'x.{name}': arrays.pop(name)}) for name in list(arrays) if name.startswith('block3')
    ],
    'block1, block2 and block3 have 1, 1, 0 layers',
  ),
  'no classes': (without('fc.weight'), 'no fc.weight of two dimensions'),
  'a gap': (
    lambda arrays: [arrays.update({name.replace('layer.0', 'layer.1'): arrays.pop(name)}) for name in list(arrays)],
    'block1 has the layers block1.layer.1: expected them without',
  ),
  'another width': (adding('fc.weight', 3, 100), 'fc.weight takes 100 channels: expected 64 times'),
  'another shape': (
    adding('block3.layer.0.conv2.weight', 64, 64, 5, 5),
    r'of other shapes: block3.layer.0.conv2.weight \(64, 64, 5, 5\) in place of \(64, 64, 3, 3\)$',
  ),
  'no image': (adding('conv1.weight', 16, 3, 3), r'of other dimensions: conv1.weight \(16, 3, 3\)$'),
  'another network': (
    lambda arrays: (arrays.clear(), adding('features.0.weight', 2)(arrays)),
    r'of no network that is known \(features.0.weight\): expected those of a Wide ResNet',
  ),
  'not a number': (spoilt('bn1.bias'), 'not finite: bn1.bias$'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_does_not_fit_is_named_and_nothing_is_written(write, config, tmp_path, name):
  change, message = REFUSED[name]
  path = write(change)
  with pytest.raises(UserError, match=f'^{path}: .*{message}'):
    import_network(path, config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_networks_of_other_data_are_refused(write, config, tmp_path):
  with pytest.raises(UserError, match='for 4 classes and images of 3 channels: data set tiny_images has 3 classes'):
    import_network(write(num_classes=4), config, tmp_path / 'run')
  with pytest.raises(UserError, match=r'for 3 classes and images of 1 channels: .* images of \(8, 8, 3\)'):
    import_network(write(channels=1), config, tmp_path / 'run')
  with pytest.raises(UserError, match='--mean and --std: expected 3 numbers each'):
    import_network(write(), config, tmp_path / 'run', ((0.5,), (0.5,)))


class Unread:
  """Data of which nothing may be read."""

  def __init__(self, config):
    self.image_shape, self.num_classes = (32, 32, 3), {'cifar10': 10, 'cifar100': 100}[config.name]

  def read(self, split):
    raise AssertionError('the data is read')


@pytest.mark.parametrize('num_classes', [10, 100])
def test_without_a_config_the_classes_say_which_data(write, tmp_path, monkeypatch, capsys, num_classes):
  monkeypatch.setattr(sources, 'open_source', Unread)
  monkeypatch.setattr(Unread, 'read', lambda self, split: None)
  monkeypatch.setattr(pretrained, 'write_network', lambda *arguments: {})
  path = write(num_classes=num_classes)
  run, facts, _ = import_network(path, None, tmp_path / 'run', (MEAN, STD))
  assert (run.data.name, run.model.depth, run.batch_size) == (f'cifar{num_classes}', 10, 128)
  assert facts.num_classes == num_classes
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f'warning: {path}, a WRN-10-1 for {num_classes} classes and 3 channels, is taken to be of ')
  assert line.endswith(f'--config={Path("configs").absolute()}/cifar{num_classes}.py')


def test_without_a_config_other_networks_are_refused(write, tmp_path, monkeypatch):
  for arguments, what in (
    ({}, '3 classes and 3 channels'),
    ({'num_classes': 10, 'channels': 1}, '10 classes and 1 ch'),
    ({'num_classes': 1000}, '1000 classes'),
  ):
    with pytest.raises(UserError, match=f'^--config is missing: .*safetensors, a WRN-10-1 for {what}.* may be of any'):
      import_network(write(**arguments), None, tmp_path / 'run')
  assert network.USUAL['resnet', 1000] == 'imagenet'
  monkeypatch.setitem(sys.modules, 'configs.cifar10', None)  # as where there is none
  with pytest.raises(UserError, match='would be of configs/cifar10.py, which Python does not find from here: expected'):
    import_network(write(num_classes=10), None, tmp_path / 'run')


def test_a_workdir_of_another_network_is_refused_before_the_data_is_read(write, config, tmp_path, monkeypatch):
  first = import_network(write(), config, tmp_path / 'run', (MEAN, STD))
  assert import_network(write(), config, tmp_path / 'run', (MEAN, STD)) == first
  monkeypatch.setattr(sources, 'open_source', lambda config: pytest.fail('the data is opened'))
  with pytest.raises(UserError, match='run holds a network with other variables: expected the same, or another workd'):
    import_network(write(spoilt_by(0.5)), config, tmp_path / 'run', (MEAN, STD))
  config.seed += 1
  with pytest.raises(UserError, match=r'run holds a run of another config: config.seed=1 \(there: 0\): expected'):
    import_network(write(), config, tmp_path / 'run', (MEAN, STD))


def spoilt_by(value):
  return lambda arrays: arrays.update({'fc.bias': arrays['fc.bias'] + np.float32(value)})


def test_normalisation_that_is_not_given(write, config, tmp_path, monkeypatch):
  monkeypatch.setattr(pretrained, 'write_network', lambda *arguments: {})
  _, facts, _ = import_network(write(), config, tmp_path / 'run')
  pixels = sources.open_source(config.data).read('train').images.reshape(-1, 3)
  np.testing.assert_allclose([facts.mean, facts.std], [pixels.mean(axis=0), pixels.std(axis=0)])


def test_normalisation_of_torchvision(networks, config, tmp_path, monkeypatch):
  import torch

  monkeypatch.setattr(pretrained, 'write_network', lambda *arguments: {})
  torch.save(networks.ResNet((2, 2, 2, 2), False, 3).state_dict(), tmp_path / 'weights.pt')
  run, facts, _ = import_network(tmp_path / 'weights.pt', config, tmp_path / 'run')
  assert (run.model.network, run.model.depth) == ('resnet', 18)
  np.testing.assert_allclose([facts.mean, facts.std], [(123.675, 116.28, 103.53), (58.395, 57.12, 57.375)])


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
    state_dict.read(tmp_path / name)


def test_without_pytorch_the_line_says_what_to_install(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  (tmp_path / 'weights.pt').touch()
  with pytest.raises(UserError, match=r"needs PyTorch: pip install 'moonshine-jax\[torch\]'; or save .*safetensors"):
    state_dict.read(tmp_path / 'weights.pt')


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
    arrays = state_dict.read(path)
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
      state_dict.read(path)
  assert not marker.exists()


# The block, depth and width, and how the paper's code makes the units of its blocks.
PAPERS = {
  'S': (16, 2, lambda n: {}),
  'S in parts': (16, 1, lambda n: {'make': n.Plain, 'parts': 2}),
  'S-2x2': (10, 1, lambda n: {'make': functools.partial(n.Plain, kernel=2, dilation=2), 'parts': 1}),
  'G(N/8)': (10, 1, lambda n: {'make': functools.partial(n.Separable, groups_of=lambda c: c // 8), 'parts': 1}),
  'G(2)': (10, 1, lambda n: {'make': functools.partial(n.Separable, groups_of=lambda c: 2), 'parts': 1}),
  'B(2)': (
    10,
    1,
    lambda n: {'make': functools.partial(n.Bottleneck, factor=2, groups_of=lambda c: 1), 'parts': 1, 'units': 1},
  ),
  'BG(2,M/8)': (
    10,
    1,
    lambda n: {'make': functools.partial(n.Bottleneck, factor=2, groups_of=lambda c: c // 8), 'parts': 1, 'units': 1},
  ),
  'BG(4,M)': (
    10,
    2,
    lambda n: {
      'make': functools.partial(n.Bottleneck, factor=4, groups_of=lambda c: c, name='convdw'),
      'parts': 1,
      'units': 1,
    },
  ),
}


@pytest.mark.parametrize('name', PAPERS)
def test_logits_are_pytorchs(networks, name, config):
  """At a size that strides divide (10) and one that they do not (9)."""
  depth, width, make = PAPERS[name]
  network = networks.randomise(networks.WideResNet(depth, width, 3, **make(networks)))
  arrays = {key: value.numpy() for key, value in network.state_dict().items() if not key.endswith('tracked')}
  model, paths = architectures.recognise(arrays)
  assert model == {'network': 'wide_resnet', 'depth': depth, 'width': width, 'block': name.split()[0]}
  assert_same_logits(networks, network, config, model, arrays, paths, (10, 9, 3))


@pytest.mark.parametrize(('depth', 'stages', 'bottleneck'), [(18, (2, 2, 2, 2), False), (50, (3, 4, 6, 3), True)])
def test_logits_of_torchvisions_resnets(networks, depth, stages, bottleneck, config):
  network = networks.randomise(networks.ResNet(stages, bottleneck, 7))
  arrays = {key: value.numpy() for key, value in network.state_dict().items() if not key.endswith('tracked')}
  model, paths = architectures.recognise(arrays)
  assert model == {'network': 'resnet', 'depth': depth, 'width': 1, 'block': 'S'}
  assert_same_logits(networks, network, config, model, arrays, paths, (33, 32, 3))


def test_resnets_that_are_none_of_ours_are_refused(networks):
  arrays = {key: value.numpy() for key, value in networks.ResNet((1, 2, 2, 2), False, 7).state_dict().items()}
  with pytest.raises(ValueError, match='layer1 to layer4 have 1, 2, 2, 2 basic blocks: expected those of ResNet-18'):
    architectures.recognise(arrays)


def assert_same_logits(networks, network, config, fields, arrays, paths, image_shape):
  config.model.update(fields)
  images = np.random.default_rng(0).integers(0, 256, (3, *image_shape), np.uint8)
  expected = networks.logits(network, images, MEAN, STD)
  assert np.ptp(expected, axis=0).max() > 0.1  # they depend on the images
  mean, std = (tuple(255 * each for each in values) for values in (MEAN, STD))
  ours = create_network(config.model, Facts(image_shape, len(arrays['fc.weight']), mean, std))
  variables = variables_of(arrays, paths, ours.shapes(image_shape))
  logits, _ = jax.jit(functools.partial(ours, train=False))(variables, images)
  # Of the largest: PyTorch's own float32 is 6e-5 from its float64 on a ResNet-50 with logits of 10.
  np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))
