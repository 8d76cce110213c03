"""Forward mode: in its context as reverse mode and as finite differences, outside of it one line."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import moonshine_jax
from moonshine_jax.errors import UserError
from moonshine_jax.ops import batch_norm, grouped_conv

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.normal(size=(2, 5, 5, 4)), jnp.float32)
KERNEL = jnp.asarray(RNG.normal(size=(3, 3, 2, 4)), jnp.float32)
SCALE, BIAS = jnp.asarray(RNG.normal(1, 0.5, (2, 4)), jnp.float32)


def convolve(images, kernel):
  return grouped_conv.conv_general_dilated(
    images, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=2
  )


def normalise(images, scale):
  return batch_norm.batch_norm_relu(images, scale, BIAS, 1e-3)[0]


OPERATIONS = pytest.mark.parametrize(('operation', 'weights'), [(convolve, KERNEL), (normalise, SCALE)])


@OPERATIONS
def test_forward_mode_is_the_transpose_of_reverse_mode(operation, weights):
  operands = (IMAGES, weights)
  tangents = tuple(jnp.asarray(RNG.normal(size=operand.shape), jnp.float32) for operand in operands)
  outputs, pull = jax.vjp(operation, *operands)
  cotangent = jnp.asarray(RNG.normal(size=outputs.shape), jnp.float32)
  with moonshine_jax.forward_mode():
    same, pushed = jax.jit(lambda *args: jax.jvp(operation, *args))(operands, tangents)
  np.testing.assert_allclose(same, outputs, rtol=1e-5, atol=1e-5)
  products = [float(jnp.vdot(a, b)) for a, b in zip(tangents, pull(cotangent), strict=True)]
  assert float(jnp.vdot(pushed, cotangent)) == pytest.approx(sum(products), rel=1e-4)


@OPERATIONS
@pytest.mark.parametrize('derivative', ['jacfwd', 'jvp'])
def test_outside_its_context_one_line_says_what_to_do(operation, weights, derivative):
  with pytest.raises(UserError, match=r'^forward mode .*: expected reverse mode .*, or the call inside `with moonshin'):
    if derivative == 'jvp':
      jax.jvp(operation, (IMAGES, weights), (IMAGES, weights))
    else:
      jax.jacfwd(lambda scale: operation(IMAGES, scale * weights))(1.0)


class Network(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.jit(nn.Conv)(4, (3, 3), name='second')(nn.Conv(4, (3, 3), name='first')(x))
    return nn.Dense(2)(jnp.tanh(x).mean((1, 2)))


def test_a_student_in_training():
  student = moonshine_jax.cheapen(Network(), lambda layer: 'G(2)', IMAGES)
  variables = jax.jit(student.init)(jax.random.key(0), IMAGES)
  params = variables['params']

  def logit_sum(params):
    return student.apply(variables | {'params': params}, IMAGES, mutable=['batch_stats'])[0].sum()

  gradient = jax.jit(jax.grad(logit_sum))(params)  # nn.jit keeps what it has compiled, which is not for what follows
  with moonshine_jax.forward_mode():
    pushed = jax.jit(lambda params: jax.jvp(logit_sum, (params,), (params,))[1])(params)
  products = jax.tree.leaves(jax.tree.map(jnp.vdot, gradient, params))
  assert float(pushed) == pytest.approx(float(sum(products)), rel=1e-3)
