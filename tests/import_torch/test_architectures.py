"""Networks in PyTorch are recognised, and their logits are those of our networks with their arrays."""

import functools

import jax
import numpy as np
import pytest

from moonshine_jax.data.splits import Facts
from moonshine_jax.import_torch import architectures
from moonshine_jax.import_torch.network import convert_variables
from moonshine_jax.models.factory import create_network

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # of the paper's code

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


@pytest.mark.parametrize(
  ('shapes', 'notations'),
  [
    ([(16, 8, 3, 3), (32, 16, 1, 1), (32, 16, 3, 3), (32, 32, 1, 1)], ['G(2)']),
    ([(16, 8, 3, 3), (32, 16, 1, 1), (32, 8, 3, 3), (32, 32, 1, 1)], ['G(N/8)']),
    ([(32, 8, 3, 3), (32, 32, 1, 1), (32, 8, 3, 3), (32, 32, 1, 1)], ['G(N/8)', 'G(4)']),
    ([(16, 16, 3, 3), (64, 16, 1, 1), (64, 32, 3, 3), (64, 64, 1, 1)], ['G(N/32)']),
  ],
)
def test_a_block_of_groups_is_told_by_both_of_its_grouped_convolutions(shapes, notations):
  assert architectures._notations(shapes) == notations


def test_a_block_of_two_kinds_of_groups_is_refused():
  with pytest.raises(ValueError, match='convolutions of 4 groups of 4 channels and 8 of 8: expected'):
    architectures._notations([(16, 4, 3, 3), (32, 16, 1, 1), (64, 8, 3, 3), (64, 64, 1, 1)])


def test_resnets_that_are_none_of_ours_are_refused(networks):
  arrays = {key: value.numpy() for key, value in networks.ResNet((1, 2, 2, 2), False, 7).state_dict().items()}
  with pytest.raises(ValueError, match='layer1 to layer4 have 1, 2, 2, 2 basic blocks: expected those of ResNet-18'):
    architectures.recognise(arrays)


def assert_same_logits(networks, network, config, fields, arrays, paths, image_shape):
  config.model.update(fields)
  images = np.random.default_rng(0).integers(0, 256, (3, *image_shape), np.uint8)
  expected = networks.logits(network, images, MEAN, STD)
  assert np.ptp(expected, axis=0).max() > 0.1  # they depend on the images
  mean, std = (tuple(255 * value for value in values) for values in (MEAN, STD))
  ours = create_network(config.model, Facts(image_shape, len(arrays['fc.weight']), mean, std))
  variables = convert_variables(arrays, paths, ours.shapes(image_shape))
  logits, _ = jax.jit(functools.partial(ours, train=False))(variables, images)
  # Of the largest: PyTorch's own float32 is 6e-5 from its float64 on a ResNet-50 with logits of 10.
  np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * max(1, np.abs(expected).max()))
