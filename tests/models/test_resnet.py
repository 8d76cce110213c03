"""ResNets against a reference in plain NumPy and float64, and against torchvision's counts and names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moonshine_jax import config as config_lib
from moonshine_jax.configs import cifar10
from moonshine_jax.cost import counting
from moonshine_jax.errors import UserError
from moonshine_jax.models.resnet import ResNet
from tests.helpers.numpy_layers import batch_norm, convolution, random_variables

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
# By depth, a notation for each stage, and its convolutions written out by hand: kernel, output channels, whether it has
# the stride, groups as a function of the channels c that it sees, dilation.
ONE, EIGHTHS = (lambda c: 1), (lambda c: c // 8)
MIXED = {
  18: {
    'S': [(3, 64, True, ONE, 1), (3, 64, False, ONE, 1)],
    'G(N/8)': [
      (3, None, True, EIGHTHS, 1),
      (1, 128, False, ONE, 1),
      (3, 128, False, EIGHTHS, 1),
      (1, 128, False, ONE, 1),
    ],
    'BG(2,M/8)': [(1, 128, False, ONE, 1), (3, 128, True, EIGHTHS, 1), (1, 256, False, ONE, 1)],
    'S-2x2': [(2, 512, True, ONE, 2), (2, 512, False, ONE, 2)],
  },
  50: {
    'S': [(1, 64, False, ONE, 1), (3, 64, True, ONE, 1), (1, 256, False, ONE, 1)],
    'G(N/8)': [(1, 128, False, ONE, 1), (3, 128, True, EIGHTHS, 1), (1, 512, False, ONE, 1)],
    'BG(8,M/8)': [(1, 128, False, ONE, 1), (3, 128, True, EIGHTHS, 1), (1, 1024, False, ONE, 1)],
    'S-2x2': [(1, 512, False, ONE, 1), (2, 512, True, ONE, 2), (1, 2048, False, ONE, 1)],
  },
}


def reference_network(depth, variables, images, train):
  """ResNet-depth of the blocks of `MIXED`: its logits and activations."""
  params, stats = variables['params'], variables['batch_stats']

  def convolve_and_normalise(x, where, conv, bn, **kwargs):
    x = convolution(x, where(params)[conv]['kernel'], **kwargs)
    return batch_norm(x, where(params)[bn], where(stats)[bn], train)

  x = np.maximum(convolve_and_normalise(images, lambda tree: tree, 'conv1', 'bn1', strides=2), 0)
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
  height, width = (-(-size // 2) for size in x.shape[1:3])
  x = np.max([padded[:, i:, j:][:, ::2, ::2][:, :height, :width] for i in range(3) for j in range(3)], axis=0)
  activations = []
  for stage, (convolutions, blocks) in enumerate(zip(MIXED[depth].values(), BLOCKS[depth], strict=True)):
    for i in range(blocks):
      stride = 2 if stage > 0 and i == 0 else 1

      def block(tree, name=f'layer{stage + 1}_{i}'):
        return tree[name]

      branch = x
      for j, (kernel, features, strided, groups, dilation) in enumerate(convolutions, start=1):
        channels = branch.shape[-1]
        assert block(params)[f'conv{j}']['kernel'].shape == (
          kernel,
          kernel,
          channels // groups(channels),
          features or channels,
        )
        branch = convolve_and_normalise(
          branch,
          block,
          f'conv{j}',
          f'bn{j}',
          strides=stride if strided else 1,
          groups=groups(channels),
          dilation=dilation,
        )
        if j < len(convolutions):
          branch = np.maximum(branch, 0)
      if i == 0 and (stage > 0 or depth == 50):
        x = convolve_and_normalise(x, block, 'downsample_0', 'downsample_1', strides=stride)
      x = np.maximum(x + branch, 0)
    activations.append(x)
  return x.mean((1, 2)) @ params['fc']['kernel'] + params['fc']['bias'], activations


@pytest.mark.parametrize(('depth', 'train'), [(18, True), (50, False)])
def test_forward_pass_equals_the_numpy_reference(depth, train):
  model = ResNet(depth, ','.join(MIXED[depth]), num_classes=7)
  images = np.random.default_rng(1).normal(size=(3, 40, 33, 3))  # odd sizes on the way: 20x17, 10x9, 5x5, 3x3, 2x2
  variables = random_variables(model, images.shape, seed=2)
  expected_logits, expected = reference_network(depth, variables, images, train)
  variables32, images32 = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (variables, images))
  mutable = ['batch_stats'] if train else []
  (logits, activations), _ = jax.jit(lambda *args: model.apply(*args, train, mutable=mutable))(variables32, images32)
  np.testing.assert_allclose(logits, expected_logits, rtol=1e-4, atol=1e-4 * np.abs(expected_logits).max())
  assert [each.shape for each in activations] == [each.shape for each in expected]
  assert [each.shape[1:3] for each in activations] == [(10, 9), (5, 5), (3, 3), (2, 2)]
  for ours, theirs in zip(activations, expected, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.max())


# Of torchvision: the parameters, and GFLOPs as its documentation gives them (multiply-adds at 224x224).
@pytest.mark.parametrize(
  ('depth', 'trainable', 'giga_multiply_adds'),
  [(18, 11_689_512, 1.814), (34, 21_797_672, 3.664), (50, 25_557_032, 4.089)],
)
def test_counts_are_torchvisions(depth, trainable, giga_multiply_adds):
  layers = counting.profile(ResNet(depth, 'S', 1000), (224, 224, 3)).layers
  assert sum(layer.trainable for layer in layers) == trainable
  assert round(sum(layer.multiply_adds for layer in layers) / 1e9, 3) == giga_multiply_adds
  names = [layer.path.replace('_', '.').replace('/', '.') for layer in layers]
  assert names[:3] == ['conv1', 'bn1', 'layer1.0.conv1'] and names[-1] == 'fc'
  assert {'layer2.0.downsample.0', 'layer2.0.downsample.1', 'layer4.1.conv2', 'layer4.1.bn2'} <= set(names)
  assert len(names) == 2 * sum(1 for name in names if 'conv' in name or name.endswith('downsample.0')) + 1


def test_a_notation_for_every_block_is_one_for_each_stage_written_out():
  by_block = ','.join(3 * ['S'] + 4 * ['G(2)'] + 6 * ['B(2)'] + 3 * ['S'])
  costs = [counting.profile(ResNet(34, block, 10), (32, 32, 3)).layers for block in ('S,G(2),B(2),S', by_block)]
  assert costs[0] == costs[1]


def test_notations_of_a_bottleneck_block_that_are_one_network():
  shapes = [
    jax.tree.leaves_with_path(
      jax.eval_shape(ResNet(50, block, 10).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    )
    for block in ('S', 'B(4)', 'G(N/8)', 'BG(4,M/8)')
  ]
  assert shapes[0] == shapes[1] != shapes[2] == shapes[3]


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters_statistics_and_logits():
  model = ResNet(18, 'S', 10, dtype=jnp.bfloat16)
  images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  (logits, activations), updates = jax.eval_shape(
    lambda *args: model.apply(*args, True, mutable=['batch_stats']), variables, images
  )
  assert {x.dtype for x in jax.tree.leaves((variables, updates, logits))} == {jnp.dtype('float32')}
  assert {x.dtype for x in activations} == {jnp.dtype('bfloat16')}


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({'depth': 40}, 'config.model.depth=40: expected 18, 34, 50 for a resnet'),
    ({'width': 2}, 'config.model.width=2: expected 1 for a resnet'),
    ({'block': 'S,S,S'}, r"config.model.block='S,S,S': 3 blocks: expected 1, 4 \(one for each stage\) or 8 \(every"),
    ({'block': 'G(48)'}, r"config.model.block='G\(48\)': block G\(48\): 48 groups do not divide the 64 channels"),
    ({'block': 'S,S,S,G(N/512)'}, None),
    ({'block': 'S,S,S,S,S,S,S,G(N/512)'}, None),
    ({'block': 'S,S,S,S,S,S,G(48),S'}, '.*block G.48.: 48 groups do not divide the 256 channels'),
    ({'block': 'G(128)', 'depth': 50}, r'.*128 groups do not divide the 64 channels'),
    ({'block': 'S,S,S,G(512)', 'depth': 18}, r'.*512 groups do not divide the 256 channels'),
    ({'block': 'S,S,S,G(512)', 'depth': 50}, None),
    ({'block': 'X'}, "config.model.block='X': 'X' is not a block: expected S, S-2x2"),
    ({'network': 'resnext'}, "config.model.network='resnext': expected wide_resnet, resnet"),
  ],
)
def test_networks_that_cannot_be_built_are_refused(values, message):
  config = cifar10.get_config()
  config.model.update({'network': 'resnet', 'depth': 18, 'width': 1, **values})
  if message is None:
    config_lib.check(config)
    return
  with pytest.raises(UserError, match=f'^{message}'):
    config_lib.check(config)
