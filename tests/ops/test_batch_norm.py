"""The fused operation against Flax's module followed by ReLU, differentiated by JAX."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moonshine_jax.ops import batch_norm

EPSILON = 1e-3
AXIS = 'replicas'


def operands(shape, dtype=jnp.float32):
  """x, scale, bias and a cotangent of y. Small multiples of 1/8: no pre-activation lies within rounding of ReLU's 0."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(1, 2, shape), dtype)
  scale, bias = (jnp.asarray(rng.normal(1, 0.5, shape[-1:]), jnp.float32) for _ in range(2))
  return x, scale, bias, jnp.asarray(rng.normal(size=shape), dtype)


def ours(x, scale, bias, axis_name=None):
  return batch_norm.batch_norm_relu(x, scale, bias, EPSILON, axis_name)


def flax_module(x, scale, bias, axis_name=None):
  """The same, by `nn.BatchNorm` with a momentum of 0, whose running statistics are those of the batch."""
  module = nn.BatchNorm(use_running_average=False, momentum=0, epsilon=EPSILON, dtype=x.dtype, axis_name=axis_name)
  empty = jnp.zeros_like(scale)
  variables = {'params': {'scale': scale, 'bias': bias}, 'batch_stats': {'mean': empty, 'var': empty}}
  y, updates = module.apply(variables, x, mutable=['batch_stats'])
  return jax.nn.relu(y), updates['batch_stats']['mean'], updates['batch_stats']['var']


def value_and_gradients(function, x, scale, bias, dy, axis_name=None):
  def run(*operands):
    y, *statistics = function(*operands, axis_name)
    return y, tuple(statistics)

  y, transpose, statistics = jax.vjp(run, x, scale, bias, has_aux=True)
  return y, statistics, transpose(dy)


@pytest.fixture(params=['cpu', 'cuda', 'tpu'])
def of_platform(request, monkeypatch):
  """Has this CPU compute what a platform would."""
  monkeypatch.setattr(
    batch_norm, 'by_platform', lambda *arrays, default, **others: others.get(request.param, default)(*arrays)
  )


@pytest.mark.parametrize('shape', [(4, 6, 5, 3), (16, 7), (1, 2, 2, 4)])
@pytest.mark.usefixtures('of_platform')
def test_equals_flax_and_its_gradients(shape):
  results = [value_and_gradients(function, *operands(shape)) for function in (ours, flax_module)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4), *results)


def test_bfloat16_is_float32_inside():
  x, scale, bias, dy = operands((8, 4, 4, 3), jnp.bfloat16)
  y, statistics, gradients = value_and_gradients(ours, x, scale, bias, dy)
  expected = value_and_gradients(ours, x.astype(jnp.float32), scale, bias, dy.astype(jnp.float32))
  assert y.dtype == gradients[0].dtype == jnp.bfloat16
  assert {values.dtype for values in (*statistics, *gradients[1:])} == {jnp.dtype(jnp.float32)}
  half_a_digit = 2.0**-8  # bfloat16 rounds the results alone, so float32's are the same to the last digit
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(np.float32(a), b, rtol=half_a_digit, atol=1e-6),
    (y, statistics, gradients),
    expected,
  )


@pytest.mark.usefixtures('of_platform')
def test_replicas_share_their_statistics_and_the_gradient_through_them():
  x, scale, bias, dy = operands((4, 3, 3, 3))
  expected = value_and_gradients(ours, x, scale, bias, dy)
  shares = [jnp.stack(jnp.split(whole, 4)) for whole in (x, dy)]
  y, statistics, (dx, dscale, dbias) = jax.pmap(
    lambda x, dy: value_and_gradients(ours, x, scale, bias, dy, AXIS), AXIS, devices=jax.devices()[:4]
  )(*shares)
  whole_batch = y.reshape(x.shape), [leaf[0] for leaf in statistics], (dx.reshape(x.shape), dscale.sum(0), dbias.sum(0))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), jax.tree.leaves(whole_batch), jax.tree.leaves(expected)
  )


def test_one_read_of_x_is_all_that_is_kept():
  x, scale, bias, _ = operands((4, 6, 5, 3))
  _, transpose = jax.vjp(lambda x: ours(x, scale, bias)[0], x)
  kept = [leaf for leaf in jax.tree.leaves(transpose) if np.shape(leaf) == x.shape]
  assert len(kept) == 1
  np.testing.assert_array_equal(kept[0], x)


def test_given_statistics_are_used():
  x, scale, bias, _ = operands((2, 3, 3, 4))
  mean, variance = jnp.arange(4.0), jnp.arange(1.0, 5)
  expected = np.maximum((np.asarray(x) - np.arange(4)) / np.sqrt(np.arange(1, 5) + EPSILON) * scale + bias, 0)
  np.testing.assert_allclose(batch_norm.normalise_relu(x, mean, variance, scale, bias, EPSILON), expected, atol=1e-5)


def test_every_platform_sums_the_same():
  a, b = (np.random.default_rng(seed).normal(size=(4, 3, 3, 5)).astype(np.float32) for seed in (0, 1))
  for sums in (batch_norm._one_complex_sum, batch_norm._two_products, batch_norm._two_sums):
    np.testing.assert_allclose(sums(a, b), a.sum((0, 1, 2)) + 1j * b.sum((0, 1, 2)), rtol=1e-5)
