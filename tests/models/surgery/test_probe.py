"""What transforms of Flax let through in training: each by itself, against students that are trained a step."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import moonshine_jax
from moonshine_jax.errors import UserError
from moonshine_jax.models.surgery.inspection import inspect_module
from moonshine_jax.models.surgery.probe import probe_module
from tests.helpers.linen_networks import Mixed, Stubborn, random_variables

IMAGES = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32)


class Layer(nn.Module):
  """One convolution, as a module of its own, which returns what `nn.scan` expects if asked."""

  scanned: bool = False

  @nn.compact
  def __call__(self, x, *_):
    x = nn.Conv(8, (3, 3), name='conv')(x)
    return (x, None) if self.scanned else x


def doubled(variables):
  return jax.tree.map(lambda leaf: 2 * leaf, variables)


def halved(variables):
  return jax.tree.map(lambda leaf: leaf / 2, variables)


def map_params(network, x, **options):
  mapped = nn.map_variables(lambda module, x: module(x), 'params', doubled, init=network.is_initializing(), **options)
  return mapped(Layer(name='layer'), x)


def vmap(x, **axes):
  vmapped = nn.vmap(Layer, variable_axes=axes, split_rngs={'params': axes['params'] == 0})
  return vmapped(name='layer')(jnp.stack([x, 2 * x])).sum(0)


def scan(x, **options):
  scanned = nn.scan(Layer, split_rngs={'params': True}, length=2, **options)
  return scanned(True, name='layer')(x, None)[0]


TRANSFORMS = {
  'nn.remat': lambda network, x: nn.remat(Layer)(name='layer')(x),
  'nn.jit': lambda network, x: nn.jit(Layer)(name='layer')(x),
  'nn.SpectralNorm': lambda network, x: nn.SpectralNorm(Layer(name='layer'))(x, update_stats=True),
  'nn.cond': lambda network, x: nn.cond(x.sum() > 0, lambda m, x: m(x), lambda m, x: -m(x), Layer(name='layer'), x),
  'nn.map_variables': map_params,
  'a mutable nn.map_variables': lambda network, x: map_params(network, x, trans_out_fn=halved, mutable=True),
  'nn.vmap': lambda network, x: vmap(x, params=0, batch_stats=0),
  'nn.scan': lambda network, x: scan(x, variable_axes={'params': 0, 'batch_stats': 0}),
  'nn.WeightNorm': lambda network, x: nn.WeightNorm(Layer(name='layer'))(x),
  'nn.vmap of shared statistics': lambda network, x: vmap(x, params=0, batch_stats=None),
  'nn.vmap of a shared layer': lambda network, x: vmap(x, params=None, batch_stats=None),
  'nn.vmap without statistics': lambda network, x: vmap(x, params=0),
  'nn.scan with constant statistics': lambda network, x: scan(
    x, variable_axes={'params': 0}, variable_broadcast='batch_stats'
  ),
  'nn.scan that carries statistics': lambda network, x: scan(
    x, variable_axes={'params': 0}, variable_carry='batch_stats'
  ),
  'nn.scan without statistics': lambda network, x: scan(x, variable_axes={'params': 0}),
}
KEEPS = list(TRANSFORMS)[:8]
# The layer itself, what is around it, or nothing.
TAKEN = {
  **dict.fromkeys(KEEPS[:6], ('layer',)),
  'nn.WeightNorm': ('WeightNorm_0',),
}


class Network(nn.Module):
  transform: str

  @nn.compact
  def __call__(self, x):
    x = TRANSFORMS[self.transform](self, nn.Conv(8, (3, 3), name='stem')(x))
    return nn.Dense(2)(x.mean((1, 2)))


@pytest.mark.parametrize('transform', TRANSFORMS)
def test_statistics_are_learned_or_the_layer_is_kept(transform):
  network = Network(transform)
  plan = moonshine_jax.plan(network, 'G(N/4)', IMAGES)
  reason = '' if transform in KEEPS else "the transform around it keeps no 'batch_stats' in training"
  assert plan.layers[1].reason == reason
  if reason:
    assert moonshine_jax.plan(network, 'S-2x2', IMAGES).layers[1].notation == 'S-2x2'  # it has no statistics
  else:
    images = 3 + np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)
    variables = random_variables(plan.student, images)
    _, updates = jax.jit(lambda *args: plan.student.apply(*args, mutable=['batch_stats']))(variables, images)
    statistics = [variables['batch_stats'], updates['batch_stats']]
    before, after = (flatten_bn(tree) for tree in statistics)
    assert before.keys() == after.keys() and len(before) == 2
    assert all(np.all(before[name] != after[name]) for name in before)


def flatten_bn(tree):
  """The statistics of the replacement's BN, by their names."""
  return {keys[-1].key: leaf for keys, leaf in jax.tree.leaves_with_path(tree) if keys[-2].key == 'bn'}


@pytest.mark.parametrize('transform', TRANSFORMS)
def test_activations_are_taken_from_the_layer_or_from_around_it(transform):
  if transform not in TAKEN:
    with pytest.raises(UserError, match='name the layers'):
      moonshine_jax.with_capture(Network(transform), IMAGES)
    return
  network = moonshine_jax.with_capture(Network(transform), IMAGES)
  assert network.layers == TAKEN[transform]
  (_, (activation,)), _ = jax.eval_shape(network.init_with_output, jax.random.key(0), IMAGES)
  assert activation.shape == (4, 8, 8, 8)


def test_a_scan_and_what_is_around_it():
  inspection = probe_module(inspect_module(Mixed(), IMAGES), Mixed(), IMAGES)
  can_be_taken = {call.path: call.can_be_taken for call in inspection.calls}
  (scanned,) = (path for path in can_be_taken if path.startswith('stack/') and path.endswith('Conv_0'))
  assert not can_be_taken[scanned] and can_be_taken['stack'] and can_be_taken['compiled/Conv_0']
  layers = probe_module(inspect_module(Stubborn(), IMAGES), Stubborn(), IMAGES).layers
  outside = 'convolution outside of linen'
  without = [layer.path.split('/')[0] for layer in layers if not layer.has_batch_stats and layer.kind != outside]
  assert without == ['stack']


def test_what_the_network_raises_in_training_is_raised():
  class Raising(nn.Module):
    @nn.compact
    def __call__(self, x):
      if not self.is_initializing():
        raise ZeroDivisionError('in training alone')
      return nn.Conv(8, (3, 3))(x)

  with pytest.raises(ZeroDivisionError, match='in training alone'):
    moonshine_jax.plan(Raising(), lambda layer: 'G(1)', IMAGES)
