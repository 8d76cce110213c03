"""Networks that others wrote, run inside a wrapper; test_capture.py has their BN on several devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import moonshine_jax
from moonshine_jax.errors import UserError
from moonshine_jax.models.surgery.capture import with_capture
from moonshine_jax.ops import grouped_conv

IMAGES = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)


def test_convolutions_run_through_ours_unless_the_user_gave_them_another(monkeypatch):
  ours, theirs = [], []

  def recording(calls, convolution):
    def call(lhs, rhs, *args, **kwargs):
      calls.append((rhs.shape, kwargs['feature_group_count']))
      return convolution(lhs, rhs, *args, **kwargs)

    return call

  given_by_user = recording(theirs, jax.lax.conv_general_dilated)
  network = nn.Sequential(
    [
      nn.Conv(8, (3, 3)),
      nn.Conv(8, (3, 3)),
      nn.Conv(8, (5, 5), conv_general_dilated=given_by_user),
      lambda x: x.mean((1, 2)),
      nn.Dense(2),
    ]
  )
  wrapped = moonshine_jax.with_capture(moonshine_jax.cheapen(network, 'G(N/2)', IMAGES), IMAGES)
  monkeypatch.setattr(grouped_conv, 'conv_general_dilated', recording(ours, grouped_conv.conv_general_dilated))
  theirs.clear()
  jax.eval_shape(wrapped.init, jax.random.key(0), IMAGES)
  assert ours == [((3, 3, 3, 8), 1), ((3, 3, 2, 8), 4), ((1, 1, 8, 8), 1)]
  assert theirs == [((5, 5, 2, 8), 4), ((1, 1, 8, 8), 1)]


def test_a_wrapped_network_may_be_a_part_that_is_called_twice():
  part = moonshine_jax.cheapen(nn.Sequential([nn.Conv(4, (3, 3)), nn.Conv(3, (3, 3))]), lambda _: 'G(1)', IMAGES)

  class Whole(nn.Module):
    @nn.compact
    def __call__(self, x):
      twice = part.copy(name='part')
      return twice(twice(x))

  shapes = jax.eval_shape(Whole().init, jax.random.key(0), IMAGES)
  alone = jax.eval_shape(part.init, jax.random.key(0), IMAGES)
  assert shapes == {collection: {'part': tree} for collection, tree in alone.items()}


def test_a_module_of_another_library_is_refused():
  module = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))
  for function in moonshine_jax.plan, moonshine_jax.cheapen, lambda module, _, images: with_capture(module, images):
    with pytest.raises(UserError, match='^Conv: expected a module of flax.linen$'):
      function(module, 'G(2)', IMAGES)
