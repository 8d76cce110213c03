"""Parameters and layers counted by hand, and beside what is published."""

import jax
import jax.numpy as jnp

from moonshine_jax.cost import counting
from moonshine_jax.models.wide_resnet import WideResNet
from tests.helpers import modules


def test_the_teacher_costs_what_is_published():
  counted = counting.count_cost(WideResNet(40, 2, 'S', 10), (32, 32, 3))
  assert counted == counting.Cost(parameters=2_248_954, multiply_adds=327_599_360)


def test_multiply_adds_are_those_of_the_layers():
  assert counting.count_cost(modules.MIXED, modules.SHAPE).multiply_adds == sum(
    layer.multiply_adds for layer in counting.profile(modules.MIXED, modules.SHAPE).layers
  )


def test_layers_by_hand_and_in_sum():
  layers = {layer.path: layer for layer in counting.profile(modules.MIXED, modules.SHAPE).layers}
  assert list(layers)[:4] == ['conv1', 'conv2_block1/bn1', 'conv2_block1/conv1', 'conv2_block1/bn2']
  assert layers['conv3_block1/conv1'] == counting.Layer(
    'conv3_block1/conv1', 'conv 3x3, stride 2, 2 groups', (4, 4, 16), 9 * 8 * 16, 9 * 8 * 16, 16 * 9 * 8 * 16
  )
  assert layers['conv4_block1/bn1'] == counting.Layer(
    'conv4_block1/bn1', 'BatchNormReLU', (4, 4, 32), 4 * 32, 2 * 32, 0
  )
  assert layers['fc'] == counting.Layer('fc', 'fully connected', (10,), 650, 650, 640)
  variables = jax.eval_shape(
    modules.MIXED.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *modules.SHAPE), jnp.float32)
  )
  assert sum(layer.parameters for layer in layers.values()) == sum(leaf.size for leaf in jax.tree.leaves(variables))
  assert sum(layer.trainable for layer in layers.values()) == sum(
    leaf.size for leaf in jax.tree.leaves(variables['params'])
  )


def test_layers_of_any_modules_add_up_to_what_is_counted():
  profile, counted = (
    counting.profile(modules.Anything([]), modules.SHAPE),
    counting.count_cost(modules.Anything([]), modules.SHAPE),
  )
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
    return {
      layer.path: layer.kind
      for layer in counting.profile(modules.make_user_model('with_norm', block), (8, 8, 2)).layers
    }

  assert kinds('S-2x2')['Stage_0/Conv_0'] == 'conv 2x2, stride 2, dilation 2'
  assert list(kinds('G(N/4)').items())[:3] == [
    ('stem', 'conv 3x3'),
    ('Stage_0/Conv_0/grouped', 'conv 3x3, stride 2, 2 groups'),
    ('Stage_0/Conv_0/bn', 'BatchNormReLU'),
  ]
