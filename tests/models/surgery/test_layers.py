"""Subclasses of nn.Conv: what may do more than convolve is told apart from what is a convolution."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import moonshine_jax
from moonshine_jax.errors import UserError

IMAGES = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)


class WithReLU(nn.Conv):
  @nn.compact
  def __call__(self, x):
    return nn.relu(super().__call__(x))


class Padded(nn.Conv):
  pad: int = 1

  def __call__(self, x):  # not compact
    return super().__call__(jnp.pad(x, ((0, 0), (self.pad, self.pad), (self.pad, self.pad), (0, 0))))


class Recomputed(nn.Conv):
  @nn.remat
  @nn.compact
  def __call__(self, x):
    return super().__call__(x) * 0.5


def _halved(call):
  @functools.wraps(call)
  def halved(self, x):
    return call(self, x) * 0.5

  return halved


class Decorated(nn.Conv):
  __call__ = _halved(nn.Conv.__call__)


class Inherited(WithReLU):
  pass


class Standardised(nn.Conv):
  def param(self, name, *args, **kwargs):
    param = super().param(name, *args, **kwargs)
    return param - param.mean() if name == 'kernel' else param


class WithDefaults(nn.Conv):
  kernel_size: tuple = (3, 3)
  use_bias: bool = False

  def setup(self):
    self.unused = 1


class RecomputedConv(nn.Conv):
  __call__ = nn.remat(nn.Conv.__call__)


def plan(layer, rule):
  @nn.compact
  def call(self, x):
    return nn.Dense(2)(layer(name='layer')(nn.Conv(8, (3, 3), name='stem')(x)).mean((1, 2)))

  network = type('Network', (nn.Module,), {'__call__': call})()
  return moonshine_jax.plan(network, rule, IMAGES)


@pytest.mark.parametrize('rule', ['S-2x2', lambda layer: 'G(1)'])
@pytest.mark.parametrize('layer', [WithReLU, Padded, Recomputed, Decorated, Inherited, nn.remat(WithReLU)])
def test_a_call_of_its_own_is_kept_with_its_reason(layer, rule):
  row = plan(functools.partial(layer, 8, (3, 3)), rule).layers[1]
  name = {'CheckpointWithReLU': 'WithReLU'}.get(layer.__name__, layer.__name__)
  assert (row.notation, row.reason) == (None, f'its class {name} has its own __call__')
  assert row.parameters == row.layer.parameters > 0


@pytest.mark.parametrize(
  'layer',
  [Standardised, WithDefaults, RecomputedConv, nn.remat(nn.Conv), nn.jit(nn.Conv), nn.remat(Standardised)],
)
def test_a_convolution_by_another_class_is_replaced(layer):
  assert plan(functools.partial(layer, 8, (3, 3)), 'G(N/4)').layers[1].notation == 'G(N/4)'


def test_complex_convolutions_stay():
  layer = functools.partial(nn.Conv, 8, (3, 3), dtype=jnp.complex64, param_dtype=jnp.complex64)
  assert plan(layer, 'G(N/4)').layers[1].reason == 'it computes in complex64'


def test_a_replacement_with_another_output_is_refused():
  def convolve(x, kernel, *args, **kwargs):
    outputs = jax.lax.conv_general_dilated(x, kernel, *args, **kwargs)
    return outputs if kernel.shape[0] == 3 else outputs[:, ::2]

  with pytest.raises(
    UserError,
    match=r'^layer: S-2x2 returns float32 \(2, 4, 8, 8\) where the original returns float32 \(2, 8, 8, 8\): expected ',
  ):
    plan(functools.partial(nn.Conv, 8, (3, 3), conv_general_dilated=convolve), 'S-2x2')
