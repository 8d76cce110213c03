"""How networks are told that they train, and what shows that they do not listen; all traced, nothing computed."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import moonshine_jax
from moonshine_jax.errors import UserError
from moonshine_jax.models.surgery.modes import FLAGS, check_modes, mode_arguments
from moonshine_jax.models.wide_resnet import WideResNet
from tests.helpers.linen_networks import Mixed, Plain

IMAGES = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)


class Norm(nn.Module):
  """Two convolutions, BN after each, and dropout; what they hear is given."""

  use_running_average: Any = None
  deterministic: Any = True
  rate: float = 0.0

  @nn.compact
  def __call__(self, x):
    averages = self.use_running_average
    for name, average in zip('ab', averages if isinstance(averages, tuple) else (averages,) * 2, strict=True):
      x = nn.BatchNorm(average, name=f'bn_{name}')(nn.Conv(8, (3, 3), name=f'conv_{name}')(x))
    x = nn.Dropout(self.rate, deterministic=self.deterministic)(x)
    return nn.Dense(2)(x.mean((1, 2)))


def network(call, **fields):
  """A network by its call, which gets a `Norm`."""
  return type('Network', (nn.Module,), {'__call__': nn.compact(call), '__annotations__': {}, **fields})()


def flagged(name, default):
  """A network whose call has an argument of a name, which says that it trains or that it does not."""
  scope = {'Norm': Norm}
  negation = '' if FLAGS[name] is False else 'not '
  exec(f'def call(self, x, {name}={default}): return Norm({negation}{name}, {negation}{name}, 0.5)(x)', scope)
  return network(scope['call'])


def doubts(module, call=None):
  return check_modes(moonshine_jax.with_capture(module, IMAGES, call=call), IMAGES)


@pytest.mark.parametrize('name', FLAGS)
def test_a_flag_by_any_name(name):
  for module in (flagged(name, default) for default in (True, False, None)):
    assert mode_arguments(module, True) == {name: FLAGS[name]}
    assert mode_arguments(module, False) == {name: not FLAGS[name]}
  assert doubts(module) == ()


def test_all_flags_that_a_call_has():
  def call(self, x, train: bool = False, *, deterministic: bool = True):
    return Norm(not train, deterministic, 0.5)(x)

  module = network(call)
  assert mode_arguments(module, True) == {'train': True, 'deterministic': False}
  assert doubts(module) == ()


def by_word(mode):
  return Norm(mode != 'train', mode != 'train', 0.5)


def default_word(self, x, mode: str = 'test'):
  return by_word(mode)(x)


def no_default(self, x, mode):
  return by_word(mode)(x)


def literal_word(self, x, mode: Literal['predict', 'train']):
  return by_word(mode)(x)


def unknown_annotation(self, x, mode: 'Unknown' = 'eval'):  # noqa: F821
  return by_word(mode)(x)


@pytest.mark.parametrize(
  ('call', 'word'),
  [(default_word, 'test'), (no_default, 'eval'), (literal_word, 'predict'), (unknown_annotation, 'eval')],
)
def test_a_mode_by_its_word(call, word):
  module = network(call)
  assert mode_arguments(module, True) == {'mode': 'train'} and mode_arguments(module, False) == {'mode': word}
  assert doubts(module) == ()


def test_arguments_of_other_kinds_are_left_alone():
  def reduction(self, x, mode: Literal['sum', 'mean'] = 'mean'):
    return x

  assert mode_arguments(network(reduction), False) == {}

  def call(self, x, mode: str = 'bilinear', test: float = 0.5, eval: Any = jnp.mean):
    return Norm(True)(x)

  assert mode_arguments(network(call), True) == {}


class LayerNorms(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.GroupNorm(2)(nn.LayerNorm()(nn.Conv(8, (3, 3))(nn.Conv(8, (3, 3))(x))))
    return nn.Dense(2)(nn.Dropout(0.0, deterministic=True)(x).mean((1, 2)))


class ByMutability(nn.Module):
  """As the networks of jax-resnet: no argument, the mutability says it."""

  @nn.compact
  def __call__(self, x):
    return Norm(not self.is_mutable_collection('batch_stats'))(x)


class Spectral(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    x = nn.SpectralNorm(nn.Conv(8, (3, 3)))(x, update_stats=train)
    return nn.Dense(2)(nn.Conv(8, (3, 3))(x).mean((1, 2)))


@pytest.mark.parametrize(
  'module',
  [Plain(), LayerNorms(), ByMutability(), Spectral(), Mixed(), WideResNet(10, 1, 'G(N/8)', 3)],
  ids=lambda module: type(module).__name__,
)
def test_networks_that_listen_or_need_not(module):
  assert doubts(module) == ()
  if not isinstance(module, WideResNet | ByMutability | Spectral):
    assert doubts(moonshine_jax.cheapen(module, lambda layer: 'G(1)', IMAGES)) == ()


def keywords(self, x, **options):
  return Norm(not options.get('train', False))(x)


def not_passed_on(self, x, train=False):
  return Norm(True)(x)


def no_argument(self, x):
  return Norm(True)(x)


def dropout_alone(self, x, is_train_step=False):
  return nn.Dense(2)(
    nn.Dropout(0.5, deterministic=not is_train_step)(nn.Conv(8, (3, 3))(nn.Conv(8, (3, 3))(x))).mean((1, 2))
  )


def scanned(self, x, train=False):
  scan = nn.scan(nn.remat(Frozen), variable_axes={'params': 0, 'batch_stats': 0}, split_rngs={'params': True}, length=2)
  x, _ = scan(name='scan')(nn.Conv(8, (3, 3))(x), None)
  return nn.Dense(2)(nn.Conv(8, (3, 3))(x).mean((1, 2)))


class Frozen(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    return nn.BatchNorm(use_running_average=True, name='bn')(nn.Conv(8, (3, 3), name='conv')(x)), None


BOTH = r'training leaves running statistics as they are in Norm_0/bn_a, Norm_0/bn_b: '


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (keywords, BOTH + 'Network is called with images alone, as its call takes any keyword: expected an argument train'),
    (not_passed_on, BOTH + 'Network is called with train=True: expected BN and dropout that are given it; where that'),
    (no_argument, BOTH + 'nothing tells Network that it trains: expected an argument train of its call.*with_capture'),
    (dropout_alone, 'training drops nothing in Dropout_0: nothing tells Network that it trains: expected an argument'),
    (scanned, 'training leaves running statistics as they are in scan/bn: Network is called with train=True: expect'),
  ],
  ids=lambda value: getattr(value, '__name__', ''),
)
def test_networks_that_do_not_hear_of_training(call, message):
  module = network(call)
  with pytest.raises(UserError, match=f'^{message}'):
    doubts(module)
  student = moonshine_jax.cheapen(module, lambda layer: 'G(1)', IMAGES)  # its own BN does hear
  with pytest.raises(UserError, match=f'^{message}'):
    doubts(student)


def test_a_part_that_does_not_hear_may_be_meant():
  def call(self, x, train=False):
    return Norm((True, not train))(x)

  assert doubts(network(call)) == ('training leaves running statistics as they are in Norm_0/bn_a',)


def test_a_call_of_the_user_may_mean_frozen_statistics():
  assert doubts(network(no_argument), call=lambda module, images, train: module(images)) == (
    'training leaves running statistics as they are in Norm_0/bn_a, Norm_0/bn_b',
  )


def test_a_call_of_the_user_tells_what_no_argument_can():
  class Attribute(nn.Module):
    is_train: bool = False

    @nn.compact
    def __call__(self, x):
      return Norm(not self.is_train)(x)

  def around(self, x, train=False):
    return Attribute(train)(x)

  assert doubts(network(around)) == ()
  with pytest.raises(UserError, match=r'Attribute: is_train is an attribute of it: expected an argument of its call'):
    moonshine_jax.with_capture(Attribute(), IMAGES)
  assert doubts(network(keywords), call=lambda module, images, train: module(images, train=train)) == ()
  assert (
    doubts(Attribute(), call=lambda module, images, train: module.copy(parent=module.scope, is_train=train)(images))
    == ()
  )


@pytest.mark.parametrize(
  ('norm', 'message'),
  [
    (
      Norm(False),
      r'evaluation changes the running statistics of Norm_0/bn_a, Norm_0/bn_b: expected nn.BatchNorm\(use_r',
    ),
    (Norm(True, False, 0.5), r'evaluation makes random choices, in Norm_0/Dropout_0: expected nn.Dropout\(determinist'),
  ],
  ids=['statistics', 'dropout'],
)
def test_networks_that_train_in_evaluation(norm, message):
  with pytest.raises(UserError, match=f'^{message}'):
    doubts(network(lambda self, x: norm.copy()(x)))


class ByTheBatch(nn.Module):
  """A BN of one's own that always takes the statistics of the batch, and keeps those that it does not read."""

  @nn.compact
  def __call__(self, x):
    mean = self.variable('batch_stats', 'mean', jnp.zeros, x.shape[-1])
    batch_mean = x.mean((0, 1, 2))
    if self.is_mutable_collection('batch_stats') and not self.is_initializing():
      mean.value = 0.9 * mean.value + 0.1 * batch_mean
    return x - batch_mean


def test_evaluation_by_the_batch_is_a_doubt():
  def call(self, x, train=False):
    return nn.Dense(2)(ByTheBatch()(nn.Conv(8, (3, 3))(nn.Conv(8, (3, 3))(x))).mean((1, 2)))

  (doubt,) = doubts(network(call))
  assert doubt.startswith('evaluation computes with none of the running statistics')
