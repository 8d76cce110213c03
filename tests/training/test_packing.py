"""Packed parameters against the trees that they are of, under the optimiser of the paper."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from moonshine_jax.configs import cifar10
from moonshine_jax.training import optimizer, packing


def parameters(seed=0):
  """Kernels of four axes and of two, vectors, a scalar, and more arrays than are joined at once."""
  rng = np.random.default_rng(seed)
  shapes = {'conv': (3, 3, 2, 4), 'fc': (4, 5), 'scale': (4,), 'temperature': ()}
  shapes |= {f'bias{i}': (i % 3 + 1,) for i in range(2 * packing.MAX_JOINED + 1)}
  return {'a': {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}}


def test_unpacks_to_the_same_arrays():
  tree = parameters()
  packed = packing.pack_trees(tree, tree)
  assert (packed.kernels.shape, packed.vectors.ndim) == ((1, 3 * 3 * 2 * 4 + 4 * 5), 1)
  assert packed.kernels.size + packed.vectors.size == sum(leaf.size for leaf in jax.tree.leaves(tree))
  jax.tree.map(np.testing.assert_array_equal, packing.unpack_trees(packed), tree)
  jax.tree.map(
    np.testing.assert_array_equal, packing.unpack_trees({'other': 1, 'them': packed}), {'other': 1, 'them': tree}
  )


def test_kernels_begin_with_the_weights_of_the_first_output_channel():
  kernel = jnp.arange(24.0).reshape(3, 2, 4)
  packed = packing.pack_trees([kernel], [kernel])
  np.testing.assert_array_equal(packed.kernels[0, :6], kernel[:, :, 0].ravel())


@pytest.mark.parametrize('decay_bn_and_biases', [True, False])
def test_the_optimiser_gives_each_parameter_what_it_gives_it_in_the_tree(decay_bn_and_biases):
  config = cifar10.get_config()
  config.optimizer.decay_bn_and_biases = decay_bn_and_biases
  tx = optimizer.create_optimizer(config, steps_per_epoch=1)
  params, grads = parameters(0), parameters(1)
  state = tx.init(params)
  packed = packing.pack_trees(params, params)
  packed_state = packing.pack_trees(state, params)
  for _ in range(2):  # the second has momentum
    changes, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, changes)
    changes, packed_state = tx.update(packing.pack_trees(grads, params), packed_state, packed)
    packed = optax.apply_updates(packed, changes)
  jax.tree.map(np.testing.assert_array_equal, packing.unpack_trees((packed, packed_state)), (params, state))


def test_gradients_are_packed_as_the_parameters_are():
  params = {'w': jnp.asarray([[2.0, 3.0]]), 'b': jnp.asarray([5.0])}

  def loss(params):
    return (params['w'] ** 2).sum() + 3 * params['b'][0], 'aux'

  expected = {'w': [[4.0, 6.0]], 'b': [3.0]}
  for given in (params, packing.pack_trees(params, params)):
    grads, aux = packing.grad(loss, given)
    assert (type(grads), aux) == (type(given), 'aux')
    assert jax.tree.map(np.ndarray.tolist, jax.device_get(packing.unpack_trees(grads))) == expected


def test_parameters_of_several_dtypes_stay_a_tree():
  params = {'w': jnp.ones((2, 2)), 'b': jnp.ones(2, jnp.bfloat16)}
  assert packing.pack_trees(params, params) is params
