"""Networks and data as users have them: by name 'tests.helpers.user:FUNCTION'."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import moonshine_jax
from moonshine_jax.models.blocks import conv_init, fc_init
from tests.helpers.linen_networks import Mixed

# Those of Flax begin with values that take seconds to compile.
Conv = functools.partial(nn.Conv, kernel_init=conv_init)
Dense = functools.partial(nn.Dense, kernel_init=fc_init)


class Stage(nn.Module):
  """Halves the image; with BN or without."""

  features: int
  norm: bool

  @nn.compact
  def __call__(self, x, train):
    x = Conv(self.features, (3, 3), strides=2, use_bias=not self.norm)(x)
    if self.norm:
      x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
    return nn.relu(x)


class Convnet(nn.Module):
  """A stem and stages of 8, 16, ... channels; dropout before the logits."""

  num_classes: int
  stages: int = 2
  norm: bool = True
  rate: float = 0.0

  @nn.compact
  def __call__(self, images, train: bool):
    x = nn.relu(Conv(8, (3, 3), name='stem')(images))
    for i in range(self.stages):
      x = Stage(8 * 2**i, self.norm)(x, train)
    x = nn.Dropout(self.rate, deterministic=not train)(x.mean((1, 2)))
    return Dense(self.num_classes)(x)


SMALLEST = 'tests.helpers.user:with_norm'  # config.model.network, for what no residual block has a part in


def with_norm(num_classes):
  return Convnet(num_classes)


def with_dropout(num_classes):
  """No BN, so no batch_stats."""
  return Convnet(num_classes, norm=False, rate=0.5)


def shallower(num_classes):
  return Convnet(num_classes, stages=1)


class Larger(nn.Module):
  """Gives its activations itself: as many as `Convnet`, twice as large."""

  num_classes: int

  @nn.compact
  def __call__(self, images, train: bool = False):
    first = nn.relu(Conv(8, (3, 3))(images))
    second = nn.relu(Conv(8, (3, 3), strides=2)(first))
    return Dense(self.num_classes)(second.mean((1, 2))), (first, second)


def larger(num_classes):
  return Larger(num_classes)


class Caching(nn.Module):
  """Keeps what no train step carries."""

  num_classes: int

  @nn.compact
  def __call__(self, images, train: bool = False):
    self.variable('cache', 'calls', jnp.zeros, ())
    return Dense(self.num_classes)(Conv(4, (3, 3))(Conv(4, (3, 3))(images)).mean((1, 2)))


def caching(num_classes):
  return Caching(num_classes)


class Untold(nn.Module):
  """Says itself whether its BN takes the running statistics; nothing tells it that it trains."""

  num_classes: int
  has_running_average: bool

  @nn.compact
  def __call__(self, images):
    x = Conv(4, (3, 3))(Conv(4, (3, 3))(images))
    return Dense(self.num_classes)(nn.BatchNorm(self.has_running_average, name='bn')(x).mean((1, 2)))


def never_training(num_classes):
  return Untold(num_classes, True)


def always_training(num_classes):
  return Untold(num_classes, False)


def frozen_on_purpose(num_classes):
  images = jax.ShapeDtypeStruct((1, 8, 8, 2), jnp.float32)
  return moonshine_jax.with_capture(
    Untold(num_classes, True), images, call=lambda module, images, train: module(images)
  )


def wrong_classes(num_classes):
  return Convnet(num_classes + 1)


def no_module(num_classes):
  return jax.nn.relu


def of_no_classes():
  return Convnet(3)


class LogitsOfMixed(Mixed):
  """Mixed for images of any channels, which returns the logits alone."""

  def __call__(self, x, training=False):
    return super().__call__(x, training)['logits']


def mixed(num_classes):
  return LogitsOfMixed()


def images():
  """Noise of 2 channels, in 3 classes of another brightness each."""
  rng = np.random.default_rng(0)
  splits = {}
  for name, examples in (('train', 48), ('test', 15)):
    labels = np.arange(examples) % 3
    splits[name] = (
      rng.integers(0, 156, (examples, 8, 8, 2), np.uint8) + (50 * labels[:, None, None, None]).astype(np.uint8),
      labels,
    )
  return splits


NOT_A_FUNCTION = 3
