"""Workdirs of imported networks: where each array goes, which data is taken, and what is refused."""

import numpy as np
import pytest

from moonshine_jax.data import sources
from moonshine_jax.data.splits import Split
from moonshine_jax.errors import UserError
from moonshine_jax.import_torch.network import USUAL_CONFIGS, import_network
from moonshine_jax.training import evaluation, pretrained
from moonshine_jax.workdir.trained import Trained
from tests.import_torch.conftest import wide_resnet_arrays

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # of the paper's code


def test_every_array_goes_where_it_belongs(write, config, tmp_path):
  path = write(lambda arrays: arrays.update({'bn1.num_batches_tracked': np.array(7)}))
  run, facts, record = import_network(path, config, tmp_path / 'run', (MEAN, STD))
  assert (run.model.network, run.model.depth, run.model.width, run.model.block) == ('wide_resnet', 10, 1, 'S')
  np.testing.assert_allclose(facts.mean, (125.307, 122.961, 113.8575))
  trained = Trained.open(tmp_path / 'run')
  variables = trained.variables
  assert trained.facts == facts and trained.network.std == facts.std
  arrays, params, batch_stats = wide_resnet_arrays(), variables['params'], variables['batch_stats']
  block = 'block2.layer.0'
  assert params['conv3_block1']['conv1']['kernel'][0, 2, 5, 7] == arrays[f'{block}.conv1.weight'][7, 5, 0, 2]
  assert params['conv3_block1']['shortcut']['kernel'][0, 0, 5, 7] == arrays[f'{block}.convShortcut.weight'][7, 5, 0, 0]
  for converted, name in (
    (params['conv3_block1']['bn2']['scale'], f'{block}.bn2.weight'),
    (params['bn']['bias'], 'bn1.bias'),
    (batch_stats['bn']['mean'], 'bn1.running_mean'),
    (batch_stats['conv4_block1']['bn1']['var'], 'block3.layer.0.bn1.running_var'),
    (params['fc']['kernel'].T, 'fc.weight'),
    (params['fc']['bias'], 'fc.bias'),
  ):
    np.testing.assert_array_equal(converted, arrays[name])
  assert evaluation.evaluate_workdir(tmp_path / 'run')['test_error'] == record['test_error']


def without(*names):
  return lambda arrays: [arrays.pop(name) for name in names]


def adding(name, *shape):
  return lambda arrays: arrays.update({name: np.ones(shape, np.float32)})


def with_nan(name):
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
  'not a number': (with_nan('bn1.bias'), 'not finite: bn1.bias$'),
  'a statistic that is not a number': (with_nan('bn1.running_var'), 'not finite: bn1.running_var$'),
  'a negative variance': (
    lambda arrays: arrays['block2.layer.0.bn2.running_var'].__setitem__(3, -1e-8),
    'negative variances: block2.layer.0.bn2.running_var$',
  ),
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


class UnreadSource:
  """Data of CIFAR's shape of which nothing may be read."""

  classes = ()

  def __init__(self, config):
    self.image_shape, self.num_classes = (32, 32, 3), {'cifar10': 10, 'cifar100': 100}[config.name]

  def read(self, split):
    raise AssertionError('the data is read')


@pytest.mark.parametrize('num_classes', [10, 100])
def test_without_a_config_the_classes_say_which_data(write, tmp_path, monkeypatch, capsys, num_classes):
  monkeypatch.setattr(sources, 'open_source', UnreadSource)
  split = Split(np.zeros((2, 32, 32, 3), np.uint8), np.zeros(2, np.int32))
  monkeypatch.setattr(UnreadSource, 'read', lambda self, name: split)
  monkeypatch.setattr(pretrained, 'write_network', lambda *arguments: {})
  path = write(num_classes=num_classes)
  run, facts, _ = import_network(path, None, tmp_path / 'run', (MEAN, STD))
  assert (run.data.name, run.model.depth, run.batch_size) == (f'cifar{num_classes}', 10, 128)
  assert facts.num_classes == num_classes
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f'warning: {path}, a WRN-10-1 for {num_classes} classes and 3 channels, is taken to be of ')
  assert line.endswith(f' --config=cifar{num_classes}')


def test_without_a_config_other_networks_are_refused(write, tmp_path):
  for arguments, what in (
    ({}, '3 classes and 3 channels'),
    ({'num_classes': 10, 'channels': 1}, '10 classes and 1 ch'),
    ({'num_classes': 1000}, '1000 classes'),
  ):
    with pytest.raises(UserError, match=f'^--config is missing: .*safetensors, a WRN-10-1 for {what}.* may be of any'):
      import_network(write(**arguments), None, tmp_path / 'run')
  assert USUAL_CONFIGS['resnet', 1000] == 'imagenet'


def test_a_workdir_of_another_network_is_refused_before_the_data_is_read(write, config, tmp_path, monkeypatch):
  first = import_network(write(), config, tmp_path / 'run', (MEAN, STD))
  assert import_network(write(), config, tmp_path / 'run', (MEAN, STD)) == first
  monkeypatch.setattr(sources, 'open_source', lambda config: pytest.fail('the data is opened'))
  with pytest.raises(UserError, match='run holds a network with other variables: expected the same, or another workd'):
    import_network(write(with_other_bias(0.5)), config, tmp_path / 'run', (MEAN, STD))
  config.seed += 1
  with pytest.raises(UserError, match=r'run holds a run of another config: config.seed=1 \(there: 0\): expected'):
    import_network(write(), config, tmp_path / 'run', (MEAN, STD))


def test_another_error_than_in_pytorch_is_refused_and_nothing_is_written(write, config, tmp_path):
  measured = import_network(write(), config, tmp_path / 'run', (MEAN, STD))[2]['test_error']
  one_image = 100 / 13
  with pytest.raises(UserError, match=f'^test error {measured:.2f}%: expected 1.00%: the images, their normalisation'):
    import_network(write(), config, tmp_path / 'other', (MEAN, STD), expected_error=1.0)
  assert not (tmp_path / 'other').exists()
  with pytest.raises(UserError, match='expected 1.00%'):  # of a network that is imported already
    import_network(write(), config, tmp_path / 'run', (MEAN, STD), expected_error=1.0)
  import_network(write(), config, tmp_path / 'run', (MEAN, STD), expected_error=measured + one_image)
  with pytest.raises(UserError, match='expected'):
    import_network(write(), config, tmp_path / 'run', (MEAN, STD), expected_error=measured + one_image + 0.1)


def with_other_bias(value):
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
