"""PyTorch's network has the paper's number of parameters, and with our variables in it our logits."""

import jax
import numpy as np
import pytest

from moonshine_jax import paper
from moonshine_jax.models.wide_resnet import GROUP_STRIDES, WideResNet, group_blocks

torch = pytest.importorskip('torch')
from benchmarks import torch_wide_resnet  # noqa: E402, it imports torch

IMAGES = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)


@pytest.mark.parametrize('row', paper.TABLE_3, ids=lambda row: f'WRN-{row.depth}-{row.width} {row.block}')
def test_parameters_of_table_3(row):
  network = torch_wide_resnet.WideResNet(row.depth, row.width, row.block, num_classes=10)
  # The paper's count: BN's running statistics are among the parameters; PyTorch's counter of batches is not.
  counted = sum(tensor.numel() for name, tensor in network.state_dict().items() if 'num_batches_tracked' not in name)
  assert counted == paper.MISPRINTED_PARAMETERS.get((row.block, row.parameters), row.parameters)


@pytest.mark.parametrize('block', ['S-2x2', 'G(N/8)', 'G(N)', 'BG(2,4)', 'S,B(2),BG(4,M)'])
def test_same_logits(block):
  network = torch_wide_resnet.WideResNet(16, 2, block, num_classes=7)
  model, variables = our_network(block)
  load(network, variables, block)
  expected, _ = jax.jit(model.apply)(variables, IMAGES)
  with torch.no_grad():
    logits = network.eval()(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy()))
  assert np.abs(expected).max() > 0.1
  np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('channels_last', [False, True])
def test_step_trains(dtype, channels_last):
  torch.manual_seed(0)
  network = torch_wide_resnet.WideResNet(10, 1, 'G(N/8)', num_classes=7)
  images = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy())
  labels = torch.arange(4)

  def loss():
    with torch.no_grad():
      return torch.nn.functional.cross_entropy(network.train()(images), labels).item()

  before = loss()
  torch_wide_resnet.make_train_step(network, images, labels, dtype, channels_last, compiled=False)(5)
  assert loss() < before
  assert network.stem.weight.is_contiguous(memory_format=torch.channels_last) == channels_last


def our_network(block):
  """Our network and variables drawn at random, BN's as well, so that none can be mistaken for another."""
  model = WideResNet(16, 2, block, num_classes=7)
  shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
  rng = np.random.default_rng(1)

  def draw(path, leaf):
    name = path[-1].key
    if name in ('scale', 'var'):
      return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
    fan_in = np.prod(leaf.shape[:-1]) if name == 'kernel' else 100
    return rng.normal(0, fan_in**-0.5, leaf.shape).astype(np.float32)

  return model, jax.tree_util.tree_map_with_path(draw, shapes)


def load(network, variables, block):
  """Copies our variables into PyTorch's network, by name."""
  params, stats = variables['params'], variables['batch_stats']
  load_convolution(network.stem, params['conv1'])
  load_bn(network.bn, params['bn'], stats['bn'])
  copy(network.fc.weight, params['fc']['kernel'].T)
  copy(network.fc.bias, params['fc']['bias'])
  names = [
    f'conv{group + 2}_block{i + 1}'
    for group in range(len(GROUP_STRIDES))
    for i in range(len(group_blocks(16, block)[group]))
  ]
  for module, name in zip(network.blocks, names, strict=True):
    for i, (bn, convolution) in enumerate(zip(module.bns, module.convolutions, strict=True), start=1):
      load_bn(bn, params[name][f'bn{i}'], stats[name][f'bn{i}'])
      load_convolution(convolution, params[name][f'conv{i}'])
    assert (module.shortcut is not None) == ('shortcut' in params[name])
    if module.shortcut is not None:
      load_convolution(module.shortcut, params[name]['shortcut'])


def load_convolution(module, params):
  copy(module.weight, np.transpose(params['kernel'], (3, 2, 0, 1)))


def load_bn(module, params, stats):
  copy(module.weight, params['scale'])
  copy(module.bias, params['bias'])
  copy(module.running_mean, stats['mean'])
  copy(module.running_var, stats['var'])


def copy(tensor, array):
  assert tuple(tensor.shape) == np.shape(array)
  with torch.no_grad():
    tensor.copy_(torch.from_numpy(np.array(array)))
