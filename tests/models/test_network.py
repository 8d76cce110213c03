"""A model with its normalisation: values on uint8 images, initial variables, and the variables that it refuses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moonshine_jax.errors import UserError
from moonshine_jax.models.network import Network, normalise
from moonshine_jax.models.wide_resnet import WideResNet

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 61.0, 62.0)
SHAPE = (8, 8, 3)


def test_normalise():
  images = np.array([[[[0, 255]], [[10, 5]]]], np.uint8)
  normalised = normalise(images, (10, 5), (5, 50))
  assert normalised.dtype == jnp.float32
  np.testing.assert_allclose(normalised, [[[[-2, 5]], [[0, 0]]]])


def test_a_network_is_its_model_on_normalised_images():
  model = WideResNet(10, 1, 'S', 3)
  network = Network(model, MEAN, STD)
  images = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), np.uint8)
  variables = network.init(jax.random.key(0), SHAPE)
  expected = jax.jit(model.apply)(variables, (images - np.float32(MEAN)) / np.float32(STD))
  outputs = jax.jit(lambda *args: network(*args, train=False))(variables, images)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), outputs, expected)
  # Arguments of the model's apply are passed on.
  _, updates = jax.eval_shape(lambda *args: network(*args, train=True, mutable=['batch_stats']), variables, images)
  assert jax.tree.structure(updates['batch_stats']) == jax.tree.structure(variables['batch_stats'])


def test_initial_variables_are_those_of_the_model():
  network = Network(WideResNet(10, 1, 'S', 3), MEAN, STD)
  variables = network.init(jax.random.key(3), SHAPE)
  shapes = network.shapes(SHAPE)
  assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables) == jax.tree.map(
    lambda leaf: (leaf.shape, leaf.dtype), shapes
  )
  expected = jax.jit(network.model.init)(jax.random.key(3), jnp.zeros((1, *SHAPE)))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), variables, expected)


class Caching(nn.Module):
  """A network with variables that no train step carries."""

  @nn.compact
  def __call__(self, images, train=False):
    self.variable('cache', 'count', jnp.zeros, ())
    return nn.Dense(3)(images.mean((1, 2))), ()


def test_other_variables_are_refused():
  with pytest.raises(UserError, match='^the network has variables of cache: expected params, and batch_stats, alone'):
    Network(Caching(), MEAN, STD).shapes(SHAPE)
