"""Classifiers that return activations: which are captured, how the classifiers are called, and several devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import moonshine_jax
from moonshine_jax.cost import counting
from moonshine_jax.errors import UserError
from moonshine_jax.models.wide_resnet import WideResNet
from tests.helpers.linen_networks import ConvBN, Mixed, Plain, random_variables

IMAGES = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)


class VGG(nn.Module):
  """Bare convolutions."""

  @nn.compact
  def __call__(self, x, deterministic=True):
    for i, features in enumerate((4, 4, 8, 8)):
      x = nn.relu(nn.Conv(features, (3, 3), name=f'conv{i}')(x))
      if i % 2:
        x = nn.max_pool(x, (2, 2), (2, 2))
    x = nn.Dropout(0.5, deterministic=deterministic)(x)
    return nn.Dense(3)(x.reshape(len(x), -1)), x


class Bottleneck(nn.Module):
  """A block whose first convolution sees the size before, as in ResNet-50."""

  features: int
  strides: int = 1

  @nn.compact
  def __call__(self, x, train):
    branch = ConvBN(self.features, (1, 1))(x, train)
    branch = ConvBN(self.features, strides=(self.strides, self.strides))(branch, train)
    gate = ConvBN(self.features, (1, 1))(branch.mean((1, 2), keepdims=True), train)
    return branch * gate


class ResNet(nn.Module):
  """A stem at a size that no other layer has, then stages within one module."""

  strides: tuple[int, ...] = (1, 1, 2, 1)

  @nn.compact
  def __call__(self, x, train):
    x = nn.max_pool(ConvBN(4, name='stem')(x, train), (2, 2), (2, 2))
    return nn.Dense(3)(Stages(self.strides, name='stages')(x, train).mean((1, 2)))


class Stages(nn.Module):
  strides: tuple[int, ...]

  @nn.compact
  def __call__(self, x, train):
    for i, strides in enumerate(self.strides):
      x = Bottleneck(8, strides, name=f'block{i}')(x, train)
    return x


def apply(network, variables, *args, **kwargs):
  """Compiled: op by op takes longer."""
  return jax.jit(lambda variables, images: network.apply(variables, images, *args, **kwargs))(variables, IMAGES)


def captured(network, variables, layers, **kwargs):
  """The outputs of layers by Flax's own capture."""
  path = [layer.split('/') for layer in layers]
  _, state = apply(network, variables, **kwargs, capture_intermediates=True, mutable=['intermediates'])
  outputs = []
  for keys in path:
    tree = state['intermediates']
    for key in keys:
      tree = tree[key]
    outputs.append(tree['__call__'][-1])
  return tuple(outputs)


@pytest.mark.parametrize(
  ('network', 'layers', 'evaluation'),
  [
    (VGG(), ('conv1', 'conv3'), {'deterministic': True}),
    (ResNet(), ('stages/block1', 'stages'), {'train': False}),
  ],
)
def test_the_last_output_of_each_size(network, layers, evaluation):
  wrapped = moonshine_jax.with_capture(network, IMAGES)
  assert wrapped.layers == layers
  variables = random_variables(wrapped, IMAGES)
  logits, activations = apply(wrapped, variables)
  expected = apply(network, variables, **evaluation)
  np.testing.assert_allclose(logits, expected[0] if isinstance(expected, tuple) else expected, rtol=1e-5)
  for activation, reference in zip(activations, captured(network, variables, layers, **evaluation), strict=True):
    np.testing.assert_allclose(activation, reference, rtol=1e-5)


def test_the_parts_of_a_block_that_halves_the_size_are_passed_over():
  assert moonshine_jax.with_capture(ResNet((2, 1, 2, 1)), IMAGES).layers == ('stages/block1',)  # 'stages' ends at 1x1


def test_the_network_and_its_replacements_hear_of_training():
  network = moonshine_jax.cheapen(ResNet(), 'G(N)', IMAGES, True)
  wrapped = moonshine_jax.with_capture(network, IMAGES)
  assert wrapped.layers == moonshine_jax.with_capture(ResNet(), IMAGES).layers
  variables = random_variables(wrapped, IMAGES)
  expected = apply(network, variables, True, mutable=['batch_stats'])
  (logits, _), updates = apply(wrapped, variables, train=True, mutable=['batch_stats'])
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), (logits, updates), expected)
  assert np.abs(apply(wrapped, variables)[0] - logits).max() > 0.01  # the running statistics are others


def test_layers_that_are_attributes():
  stage = nn.Sequential([nn.Conv(4, (3, 3)), nn.Conv(4, (3, 3))])
  network = nn.Sequential([stage, lambda x: x.mean((1, 2)), nn.Dense(2)])
  wrapped = moonshine_jax.with_capture(network, IMAGES)
  variables = random_variables(wrapped, IMAGES)
  assert wrapped.layers == ('layers_0',)
  np.testing.assert_allclose(apply(wrapped, variables)[1], captured(network, variables, wrapped.layers), rtol=1e-5)


def test_dropout_hears_of_training_by_its_negated_flag():
  wrapped = moonshine_jax.with_capture(VGG(), IMAGES)
  variables = random_variables(wrapped, IMAGES)
  first, second = (apply(wrapped, variables, train=True, rngs={'dropout': jax.random.key(i)})[0] for i in (1, 2))
  assert np.any(first != second)


def test_a_call_that_the_user_defines():
  def call(module, images, train):
    return (module(images.transpose(0, 2, 3, 1), training=train)['logits'],)

  images = IMAGES.transpose(0, 3, 1, 2)
  wrapped = moonshine_jax.with_capture(Mixed(), images, ['shared', 'by_name_wide', 'compiled/Conv_0', 'stack'], call)
  variables = random_variables(wrapped, images)
  assert set(variables) == {'params', 'batch_stats'}
  logits, activations = jax.jit(wrapped.apply)(variables, images)
  np.testing.assert_allclose(logits, apply(Mixed(), variables)['logits'], rtol=1e-5)
  for activation, reference in zip(activations, captured(Mixed(), variables, wrapped.layers), strict=True):
    np.testing.assert_allclose(activation, reference, rtol=1e-5)


def test_devices_compute_what_one_does(smooth):
  student = moonshine_jax.cheapen(ResNet((1, 2)), 'B(2)', IMAGES, True)
  network = moonshine_jax.with_capture(student, IMAGES)
  variables = random_variables(network, IMAGES)

  def step(network, variables, images):
    def loss_fn(params):
      (logits, activations), updates = network.apply(
        {**variables, 'params': params}, images, train=True, mutable=['batch_stats']
      )
      return jnp.square(logits - 1).mean(), (updates, activations)

    return jax.grad(loss_fn, has_aux=True)(variables['params'])

  def replica(variables, images):
    grads, aux = step(network.clone(axis_name='batch'), variables, images)
    return jax.lax.pmean(grads, 'batch'), aux

  grads, (updates, activations) = jax.jit(lambda *args: step(network, *args))(variables, IMAGES)
  mean_grads, (same_updates, shards) = jax.pmap(replica, 'batch', in_axes=(None, 0), devices=jax.devices()[:2])(
    variables, IMAGES.reshape(2, 4, 8, 8, 3)
  )
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x[0], y, rtol=1e-3, atol=1e-4), (mean_grads, same_updates), (grads, updates)
  )
  for shard, activation in zip(shards, activations, strict=True):
    np.testing.assert_allclose(np.concatenate(shard), activation, rtol=1e-4, atol=1e-5)
  # An axis that the student has does the same.
  of_student, of_whole = (
    str(
      jax.make_jaxpr(
        lambda *args, module=module: module.apply(*args, True, mutable=['batch_stats']), axis_env=[('batch', 2)]
      )(variables, IMAGES)
    ).count('psum')
    for module in (student.clone(axis_name='batch'), network.clone(axis_name='batch'))
  )
  assert of_student == of_whole > 0


class Attribute(Plain):
  train: bool = False


@pytest.mark.parametrize(
  ('network', 'layers', 'message'),
  [
    (Plain(), ['middel'], "'middel' is no module that returns an array: expected one such as middle"),
    (Plain(), ['fc'], r"'fc' returns \(8, 3\): expected \(batch, height, width, channels\)"),
    (Mixed(), ['stack/ScanCheckpointStep_0/ConvBN_0'], 'is inside a transform .nn.scan, .*: expected a module around'),
    (nn.Sequential([nn.Dense(2), jnp.ravel]), None, 'returns an array .*: expected logits'),
    (nn.Sequential([lambda x: x.mean((1, 2)), nn.Dense(2)]), None, 'no output of a module with convolutions is an im'),
    (Attribute(), None, 'Attribute: train is an attribute of it: expected an argument of its call'),
  ],
)
def test_networks_that_do_not_fit(network, layers, message):
  with pytest.raises(UserError, match=message):
    moonshine_jax.with_capture(network, IMAGES, layers)


def test_capture_leaves_a_network_of_this_project_as_it_was():
  network = WideResNet(10, 1, 'S', 3)
  wrapped = moonshine_jax.with_capture(network, IMAGES)
  assert wrapped.layers == ('conv2_block1', 'conv3_block1', 'conv4_block1')
  variables = random_variables(network, IMAGES)
  jax.tree.map(np.testing.assert_array_equal, apply(wrapped, variables), apply(network, variables))
  assert counting.count_cost(wrapped, (8, 8, 3)) == counting.count_cost(network, (8, 8, 3))


def test_a_replaced_layer_is_captured_from_inside_and_from_outside():
  inside = moonshine_jax.cheapen(moonshine_jax.with_capture(Plain(), IMAGES), 'G(N/4)', IMAGES)
  outside = moonshine_jax.with_capture(moonshine_jax.cheapen(Plain(), 'G(N/4)', IMAGES), IMAGES)
  assert outside.layers == ('middle',)
  variables = random_variables(outside, IMAGES)
  outputs = apply(inside, variables)
  assert outputs[1][0].shape == (8, 4, 4, 16)
  jax.tree.map(np.testing.assert_array_equal, outputs, apply(outside, variables))
