"""What networks cost: counts by hand, activations beside what autodiff keeps, and the command as a user runs it."""

import json
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from moonshine_jax.configs import cifar10
from moonshine_jax.cost import counting
from moonshine_jax.models.network import Network
from moonshine_jax.models.resnet import ResNet
from moonshine_jax.models.user import create
from moonshine_jax.models.wide_resnet import WideResNet
from moonshine_jax.training import optimizer
from moonshine_jax.training import step as step_lib
from tests.helpers import made_runs

MIXED = WideResNet(10, 1, ('S', 'G(N/8)', 'BG(2,M)'), 10)
SHAPE = (8, 8, 1)


def test_the_teacher_costs_what_is_published():
  counted = counting.count_cost(WideResNet(40, 2, 'S', 10), (32, 32, 3))
  assert counted == counting.Cost(parameters=2_248_954, multiply_adds=327_599_360)


def test_multiply_adds_counted_by_hand():
  # WRN-10-1 with blocks S, G(N/8) and BG(2,M) on 8x8 images of 1 channel: output positions times weights.
  stem = 64 * 9 * 1 * 16
  conv2 = 64 * (9 * 16 * 16) * 2  # the shortcut is the identity
  conv3 = 16 * (9 * 16 * 8 + 16 * 32 + 9 * 32 * 8 + 32 * 32 + 16 * 32)
  conv4 = 16 * 32 * 32 + 4 * (9 * 32 + 32 * 64 + 32 * 64)  # the first 1x1 comes before the stride
  fully_connected = 64 * 10
  assert counting.count_cost(MIXED, SHAPE).multiply_adds == stem + conv2 + conv3 + conv4 + fully_connected


def test_multiply_adds_are_those_of_the_layers():
  assert counting.count_cost(MIXED, SHAPE).multiply_adds == sum(
    each.multiply_adds for each in counting.profile(MIXED, SHAPE).layers
  )


class Step(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    return nn.relu(nn.Conv(4, (3, 3), feature_group_count=2)(x)), None


class Anything(nn.Module):
  """A scan of 5, a layer that is computed anew, one that is used twice, self-attention and a bare product."""

  layers: list  # has no hash

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.Conv(4, (1, 1))(images)
    x, _ = nn.scan(Step, variable_axes={'params': 0}, split_rngs={'params': True}, length=5)()(x, None)
    shared = nn.remat(nn.ConvTranspose)(4, (2, 2), strides=(2, 2))
    x = nn.Dense(features=3, kernel_init=nn.initializers.zeros)(shared(x)) + nn.Dense(3)(shared(x) * 2)
    x = x.reshape(1, -1, 3)
    x = jnp.einsum('bij,bkj->bik', x, x) @ x
    return (x @ self.param('table', nn.initializers.normal(), (3, 10))).mean(1)


def test_modules_of_any_kind_by_hand():
  positions = 8 * 8
  scan, transposed, dense = 5 * positions * 9 * 2 * 4, positions * 4 * 4 * 4, 4 * positions * 4 * 3
  counted = counting.count_cost(Anything([]), SHAPE)
  assert counted.multiply_adds == positions * 4 + scan + 2 * transposed + 2 * dense + 4 * positions * 3 * 10
  assert counted.parameters == (4 + 4) + 5 * (9 * 2 * 4 + 4) + (4 * 4 * 4 + 4) + 2 * (4 * 3 + 3) + 30


def test_what_cannot_be_counted_is_said(capsys):
  class While(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
      kernel = self.param('kernel', nn.initializers.normal(), (1, 1))
      return jax.lax.while_loop(lambda x: x.sum() < 3, lambda x: x @ kernel, images)

  assert counting.count_cost(While(), SHAPE) == counting.Cost(1, None)
  assert capsys.readouterr().err == (
    'warning: the multiply-adds of While are not counted: there are convolutions or matrix products inside of while\n'
  )


def test_layers_by_hand_and_in_sum():
  layers = {layer.path: layer for layer in counting.profile(MIXED, SHAPE).layers}
  assert list(layers)[:4] == ['conv1', 'conv2_block1/bn1', 'conv2_block1/conv1', 'conv2_block1/bn2']
  assert layers['conv3_block1/conv1'] == counting.Layer(
    'conv3_block1/conv1', 'conv 3x3, stride 2, 2 groups', (4, 4, 16), 9 * 8 * 16, 9 * 8 * 16, 16 * 9 * 8 * 16
  )
  assert layers['conv4_block1/bn1'] == counting.Layer(
    'conv4_block1/bn1', 'BatchNormReLU', (4, 4, 32), 4 * 32, 2 * 32, 0
  )
  assert layers['fc'] == counting.Layer('fc', 'fully connected', (10,), 650, 650, 640)
  variables = jax.eval_shape(MIXED.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32))
  assert sum(layer.parameters for layer in layers.values()) == sum(leaf.size for leaf in jax.tree.leaves(variables))
  assert sum(layer.trainable for layer in layers.values()) == sum(
    leaf.size for leaf in jax.tree.leaves(variables['params'])
  )


def test_activations_of_training_are_those_that_autodiff_keeps():
  images = jax.ShapeDtypeStruct((5, *SHAPE), jnp.float32)  # 5 is the first axis of no parameter

  def transpose(variables, images):
    def logits(params):
      return MIXED.apply({**variables, 'params': params}, images, train=True, mutable=['batch_stats'])[0][0]

    return jax.vjp(logits, variables['params'])[1]

  variables = jax.eval_shape(MIXED.init, jax.random.key(0), images)
  kept = {id(var): var.aval for var in jax.make_jaxpr(transpose)(variables, images).jaxpr.outvars}  # some twice
  assert (
    counting.training_bytes(MIXED, variables, SHAPE)
    == 4 * sum(aval.size for aval in kept.values() if aval.ndim > 1 and aval.shape[0] == 5) // 5
  )


@pytest.mark.parametrize(
  ('block', 'numbers'),
  [
    # conv2 of the S network: the block's input, which the addition waits for, and a convolution's input and output.
    ('S', 3 * 64 * 16),
    # conv3's shortcut is the widest place of G(N): BN+ReLU's output feeds it and the 3x3, beside the block's 4x4 ones;
    # conv2 has as many arrays as above: input, BN+ReLU's output, convolution's output.
    ('G(N)', 3 * 64 * 16),
  ],
)
def test_the_peak_of_inference_by_hand(block, numbers):
  assert counting.profile(WideResNet(10, 1, block, 10), SHAPE).inference_bytes == 4 * numbers


def test_a_block_with_a_shortcut_that_is_wider_than_its_input():
  # WRN-10-4: conv2's block goes from 16 to 64 channels: the shortcut's output, conv2's input and its output.
  assert counting.profile(WideResNet(10, 4, 'S', 10), SHAPE).inference_bytes == 4 * 64 * (64 + 64 + 64)


def activations(model, image_shape):
  """Bytes for training and for inference."""
  profile = counting.profile(model, image_shape)
  return counting.training_bytes(model, profile.variables, image_shape), profile.inference_bytes


def test_activations_of_a_resnet_by_hand():
  # ResNet-18 on 32x32 images: each layer's input, and the pool's. Each stage has as many arrays of its size as
  # convolutions and BN but for the first block's input, which is of the stage before.
  stem, image = 16 * 16 * 64, 32 * 32 * 3
  sizes = [8 * 8 * 64, 4 * 4 * 128, 2 * 2 * 256, 512]
  layer1, others = 8 * sizes[0], sum(before + 8 * size for before, size in zip(sizes, sizes[1:], strict=False))
  # At the peak the stem's BN+ReLU reads one array and writes another.
  assert activations(ResNet(18, 'S', 10), (32, 32, 3)) == (4 * (image + 2 * stem + layer1 + others + 512), 4 * 2 * stem)


def test_activations_of_a_network_of_others_by_hand():
  # On 8x8 images: the stem's convolution with its bias, and its ReLU; two stages of convolution and BN+ReLU. The mean
  # is of the last ReLU, of which the convolution is enough to know the sign.
  image, stem, first, second = 8 * 8 * 2, 8 * 8 * 8, 4 * 4 * 8, 2 * 2 * 16
  expected = 4 * (image + 2 * stem + 2 * first + second + 16), 4 * 2 * stem
  assert activations(made('with_norm'), (8, 8, 2)) == expected
  # Dropout draws its masks anew; without BN, bias and ReLU follow a convolution at once.
  assert activations(made('with_dropout'), (8, 8, 2)) == expected


def made(name, block='S'):
  return create(f'tests.helpers.user:{name}', block, 3, (8, 8, 2), 'float32', None)


class Branches(nn.Module):
  """A dense block: what is concatenated is written again; a gate is broadcast at once; bfloat16 takes half."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.remat(nn.Conv)(8, (1, 1), use_bias=False, dtype=self.dtype)(images)
    x = jnp.concatenate([x, nn.Conv(8, (1, 1), use_bias=False, dtype=self.dtype)(x)], axis=-1)
    gate = nn.sigmoid(nn.Dense(16, use_bias=False, dtype=self.dtype)(x.mean((1, 2))))
    x = x * gate[:, None, None]
    return nn.Dense(3)(x.reshape(len(x), -1))


def test_activations_by_hand():
  image, half, whole = 64, 64 * 8, 64 * 16
  # The concatenation is read by the mean and by the gate's product, whose result the fully connected layer reads.
  peak, kept = max(2 * half + whole, 2 * whole + 16), image + half + whole + 16 + 16 + whole
  assert activations(Branches(), SHAPE) == (4 * kept, 4 * peak)
  assert activations(Branches(jnp.bfloat16), SHAPE) == (2 * kept, 2 * peak)


def test_layers_of_any_modules_add_up_to_what_is_counted():
  profile, counted = counting.profile(Anything([]), SHAPE), counting.count_cost(Anything([]), SHAPE)
  layers = {layer.path: layer for layer in profile.layers}
  assert sum(layer.multiply_adds for layer in profile.layers) == counted.multiply_adds
  assert sum(layer.parameters for layer in profile.layers) == counted.parameters
  scanned = layers['ScanStep_0/Conv_0']
  assert (scanned.parameters, scanned.multiply_adds) == (5 * (9 * 2 * 4 + 4), 5 * 64 * 9 * 2 * 4)
  shared = layers['CheckpointConvTranspose_0']
  assert (shared.parameters, shared.multiply_adds, shared.output_shape) == (68, 2 * 64 * 4 * 4 * 4, (16, 16, 4))
  assert layers[''] == counting.Layer('', 'Anything', (10,), 30, 30, 4 * 64 * 3 * 10)
  assert profile.inference_bytes is None  # what is alive inside of a scan, nobody knows


def test_layers_that_took_the_place_of_others():
  def kinds(block):
    return {layer.path: layer.kind for layer in counting.profile(made('with_norm', block), (8, 8, 2)).layers}

  assert kinds('S-2x2')['Stage_0/Conv_0'] == 'conv 2x2, stride 2, dilation 2'
  assert list(kinds('G(N/4)').items())[:3] == [
    ('stem', 'conv 3x3'),
    ('Stage_0/Conv_0/grouped', 'conv 3x3, stride 2, 2 groups'),
    ('Stage_0/Conv_0/bn', 'BatchNormReLU'),
  ]


def run_command(*flags):
  command = [sys.executable, '-m', 'moonshine_jax.cost', '--image_size=8', '--layers', '--json', *flags]
  return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def test_command():
  # G(2) has too many parameters.
  result = run_command('--max_latency_ms=1e6', '--max_params=500000', '--network=G(2)', '--network=WRN-16-1 S')
  assert result['environment']['backend'] and (result['num_classes'], result['image_shape']) == (10, [8, 8, 3])
  (row,) = result['rows']
  assert (row['network'], row['paper_error']) == ('WRN-16-1 S', 7.72)
  assert (row['parameters'], row['layers'][-1]['path']) == (175_994, 'fc')
  assert len(row['latencies']) == 15 and min(row['latencies']) <= row['latency'] <= max(row['latencies'])
  # What the checkpoint of a run has in it.
  network = Network(WideResNet(16, 1, 'S', 10), (0.0,) * 3, (1.0,) * 3)
  tx = optimizer.create_optimizer(cifar10.get_config(), 1)
  state = jax.eval_shape(lambda key: step_lib.create_train_state(network, (8, 8, 3), tx, key, key), jax.random.key(0))
  assert row['checkpoint_bytes'] == 4 * sum(leaf.size for leaf in jax.tree.leaves(state))
  assert row['deployed_bytes'] == 4 * sum(leaf.size for leaf in jax.tree.leaves(state.variables))


def test_command_of_any_network(tmp_path):
  made_runs.write(tmp_path / 'run', [], **{'model.network': 'tests.helpers.user:with_norm', 'data.name': 'digits'})
  result = run_command(
    f'--workdir={tmp_path}/run',
    '--network=tests/helpers/user.py:caching G(2)',
    '--network=WRN-10-1 S',
    '--network=WRN-16-1 S',
    '--max_params=200000',
  )
  # The networks with an error of the paper's come first.
  assert [row['network'] for row in result['rows']] == ['WRN-16-1 S', 'caching G(2)', 'WRN-10-1 S', 'with_norm S']
  assert 'image_shape' not in result  # they differ: the workdir's images are those of its data
  own, run = result['rows'][1], result['rows'][3]
  assert own['function'] == 'tests/helpers/user.py:caching' and own['layers'][2]['path'] == 'Conv_0/bn'
  assert own['checkpoint_bytes'] is None  # it has variables that no train step carries
  stem, stages, fully_connected = 32 * 32 * 9 * 3 * 8, 16 * 16 * 9 * 8 * 8 + 8 * 8 * 9 * 8 * 16, 16 * 10
  assert (run['workdir'], run['image_shape']) == (f'{tmp_path}/run', [32, 32, 3])
  assert run['multiply_adds'] == stem + stages + fully_connected
