"""Graphs beside the networks that they are of."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from moonshine_jax.export import graph
from tests.helpers.exports import IMAGE_SHAPE, MIXED_BLOCKS, describe_images, random_network

IMAGES = np.random.default_rng(0).integers(0, 256, (3, *IMAGE_SHAPE), np.uint8)


def assert_same(network, variables, formulation, tolerance=1e-5):
  """The graph's logits are the network's. Returns how often each operation is in it."""
  traced = graph.trace(network, variables, describe_images(len(IMAGES)), formulation)
  expected, _ = jax.jit(lambda images: network(variables, images, train=False))(IMAGES)
  (logits,) = jax.jit(core.jaxpr_as_fun(traced))(IMAGES)
  assert logits.dtype == jnp.float32
  np.testing.assert_allclose(logits, expected, atol=tolerance * np.abs(expected).max())
  return graph.count_operations(traced)


@pytest.mark.parametrize('formulation', ['grouped', 'dense', 'blocks'])
def test_a_graph_computes_what_the_network_does(formulation):
  operations = assert_same(*random_network(MIXED_BLOCKS), formulation)
  assert operations['sub'] == operations['div'] == operations['rsqrt'] == 0
  # BN: 1 before the first convolution of each of the 3 blocks and 1 at the end read sums that others read too; those
  # between the convolutions of a block become kernels and biases. Beside these the images' and the pool's.
  assert operations['mul'] == 3 + 1 + 2
  assert operations['grouped'] == (3 if formulation == 'grouped' else 0)
  # The stem; 2, 4 and 3 in the blocks; 2 shortcuts. Of the grouped ones, those of 32 channels become 2 blocks of 16.
  convolutions = 1 + 2 + 4 + 3 + 2 + (2 if formulation == 'blocks' else 0)
  assert operations['conv_general_dilated'] + operations['grouped'] == convolutions


class UserNetwork(nn.Module):
  """What a user-defined network may have in it."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images, train=False):
    def norm(x):
      return nn.BatchNorm(use_running_average=not train, dtype=self.dtype)(x)

    x = nn.Conv(8, (3, 3), dtype=self.dtype)(images)  # with a bias
    x = nn.relu(norm(x))  # folded
    x = nn.Conv(8, (3, 3), strides=2, feature_group_count=2, use_bias=False, dtype=self.dtype)(x)
    y = 1 - norm(x) / 2  # not folded, since x is read again
    x = nn.max_pool(jax.checkpoint(jax.nn.silu)(y + x), (2, 2), (2, 2))
    x = norm(x)  # after no convolution
    return nn.Dense(5, dtype=self.dtype)(x.mean((1, 2))).astype(jnp.float32), (x,)


def test_a_user_defined_network():
  operations = assert_same(*random_network(UserNetwork()), 'grouped')
  assert (operations['conv_general_dilated'], operations['grouped']) == (1, 1)
  assert operations['mul'] == 1 + 1 + 1 + 1 + 1  # images; y; in SiLU; the last BN; the pool


def test_a_network_in_bfloat16_becomes_one_in_float32():
  network, variables = random_network(UserNetwork(jnp.bfloat16))
  assert_same(network, variables, 'grouped', 0.05)
  traced = graph.trace(network, variables, describe_images(1), 'grouped')
  assert not any(var.aval.dtype == jnp.bfloat16 for eqn in traced.jaxpr.eqns for var in eqn.outvars)
  # All of it in float32, as if it had been from the start.
  assert assert_same(random_network(UserNetwork())[0], variables, 'grouped') == graph.count_operations(traced)
