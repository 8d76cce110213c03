"""What networks cost: counts by hand, activations beside what autodiff keeps, and the command as a user runs it."""

import json
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from configs import cifar10
from moonshine_jax import cost, optim, steps
from moonshine_jax.models.wide_resnet import WideResNet

MIXED = WideResNet(10, 1, ('S', 'G(N/8)', 'BG(2,M)'), 10)
SHAPE = (8, 8, 1)


def test_the_teacher_costs_what_is_published():
  counted = cost.count(WideResNet(40, 2, 'S', 10), (32, 32, 3))
  assert counted == cost.Cost(parameters=2_248_954, multiply_adds=327_599_360)


def test_multiply_adds_counted_by_hand():
  # WRN-10-1 with blocks S, G(N/8) and BG(2,M) on 8x8 images of 1 channel: output positions times weights.
  stem = 64 * 9 * 1 * 16
  conv2 = 64 * (9 * 16 * 16) * 2  # the shortcut is the identity
  conv3 = 16 * (9 * 16 * 8 + 16 * 32 + 9 * 32 * 8 + 32 * 32 + 16 * 32)
  conv4 = 16 * 32 * 32 + 4 * (9 * 32 + 32 * 64 + 32 * 64)  # the first 1x1 comes before the stride
  fully_connected = 64 * 10
  assert cost.count(MIXED, SHAPE).multiply_adds == stem + conv2 + conv3 + conv4 + fully_connected


def test_multiply_adds_are_those_of_the_layers():
  assert cost.count(MIXED, SHAPE).multiply_adds == sum(each.multiply_adds for each in cost.profile(MIXED, SHAPE).layers)


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
  counted = cost.count(Anything([]), SHAPE)
  assert counted.multiply_adds == positions * 4 + scan + 2 * transposed + 2 * dense + 4 * positions * 3 * 10
  assert counted.parameters == (4 + 4) + 5 * (9 * 2 * 4 + 4) + (4 * 4 * 4 + 4) + 2 * (4 * 3 + 3) + 30


def test_what_cannot_be_counted_is_said(capsys):
  class While(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
      kernel = self.param('kernel', nn.initializers.normal(), (1, 1))
      return jax.lax.while_loop(lambda x: x.sum() < 3, lambda x: x @ kernel, images)

  assert cost.count(While(), SHAPE) == cost.Cost(1, None)
  assert capsys.readouterr().err == (
    'warning: the multiply-adds of While are not counted: there are convolutions or matrix products inside of while\n')


def test_layers_by_hand_and_in_sum():
  layers = {layer.path: layer for layer in cost.profile(MIXED, SHAPE).layers}
  assert list(layers)[:4] == ['conv1', 'conv2_block1/bn1', 'conv2_block1/conv1', 'conv2_block1/bn2']
  assert layers['conv3_block1/conv1'] == cost.Layer(
    'conv3_block1/conv1', 'conv 3x3, stride 2, 2 groups', (4, 4, 16), 9 * 8 * 16, 9 * 8 * 16, 16 * 9 * 8 * 16)
  assert layers['conv4_block1/bn1'] == cost.Layer('conv4_block1/bn1', 'BatchNormReLU', (4, 4, 32), 4 * 32, 2 * 32, 0)
  assert layers['fc'] == cost.Layer('fc', 'fully connected', (10,), 650, 650, 640)
  variables = jax.eval_shape(MIXED.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32))
  assert sum(layer.parameters for layer in layers.values()) == sum(leaf.size for leaf in jax.tree.leaves(variables))
  assert sum(layer.trainable for layer in layers.values()) == sum(
    leaf.size for leaf in jax.tree.leaves(variables['params']))


def test_activations_of_training_are_those_that_autodiff_keeps():
  images = jax.ShapeDtypeStruct((5, *SHAPE), jnp.float32)  # 5 is the first axis of no parameter

  def transpose(variables, images):
    def logits(params):
      return MIXED.apply({**variables, 'params': params}, images, train=True, mutable=['batch_stats'])[0][0]

    return jax.vjp(logits, variables['params'])[1]

  variables = jax.eval_shape(MIXED.init, jax.random.key(0), images)
  kept = {id(var): var.aval for var in jax.make_jaxpr(transpose)(variables, images).jaxpr.outvars}  # some twice
  assert cost.profile(MIXED, SHAPE).training_bytes == 4 * sum(
    aval.size for aval in kept.values() if aval.ndim > 1 and aval.shape[0] == 5) // 5


@pytest.mark.parametrize(('block', 'numbers'), [
  # conv2 of the S network: the block's input, which the addition waits for, and a convolution's input and output.
  ('S', 3 * 64 * 16),
  # conv3's shortcut is the widest place of G(N): BN+ReLU's output feeds it and the 3x3, beside the block's 4x4 ones;
  # conv2 has as many arrays as above: input, BN+ReLU's output, convolution's output.
  ('G(N)', 3 * 64 * 16)])
def test_the_peak_of_inference_by_hand(block, numbers):
  assert cost.profile(WideResNet(10, 1, block, 10), SHAPE).inference_bytes == 4 * numbers


def test_a_block_with_a_shortcut_that_is_wider_than_its_input():
  # WRN-10-4: conv2's block goes from 16 to 64 channels: the shortcut's output, conv2's input and its output.
  assert cost.profile(WideResNet(10, 4, 'S', 10), SHAPE).inference_bytes == 4 * 64 * (64 + 64 + 64)


def test_command():
  command = [sys.executable, '-m', 'moonshine_jax.cost', '--image_size=8', '--layers', '--json',
             '--max_latency_ms=1e6', '--max_params=500000',
             *(f'--network={network}' for network in ('WRN-10-1 S', 'G(2)', 'WRN-16-1 S'))]
  result = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
  # G(2) has too many parameters; of those that are left the paper's errors decide.
  assert [(row['network'], row.get('paper_error')) for row in result['rows']] == [
    ('WRN-16-1 S', 7.72), ('WRN-10-1 S', None)]
  assert result['environment']['backend'] and result['num_classes'] == 10
  row = result['rows'][-1]
  assert (row['parameters'], row['layers'][-1]['path']) == (78330, 'fc')
  assert len(row['latencies']) == 15 and min(row['latencies']) <= row['latency'] <= max(row['latencies'])
  # What the checkpoint of a run has in it.
  network = steps.Network(WideResNet(10, 1, 'S', 10), (0.0,) * 3, (1.0,) * 3)
  tx = optim.create_optimizer(cifar10.get_config(), 1)
  state = jax.eval_shape(
    lambda key: steps.create_train_state(network, (8, 8, 3), tx, key, key), jax.random.key(0))
  assert row['checkpoint_bytes'] == 4 * sum(leaf.size for leaf in jax.tree.leaves(state))
  assert row['deployed_bytes'] == 4 * sum(leaf.size for leaf in jax.tree.leaves(state.variables))
