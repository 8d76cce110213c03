"""Linen networks that are written as others write them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def random_variables(network: nn.Module, *args: Any, **kwargs: Any) -> dict[str, Any]:
  """Of a network by its call, all between 0.5 and 1: initial values, many of them 0 or 1, hide mistakes."""
  shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), *args, **kwargs))
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda leaf: rng.uniform(0.5, 1, leaf.shape).astype(leaf.dtype), shapes)


class Plain(nn.Module):
  """Three convolutions, one of them strided and with a bias."""

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(8, (3, 3), name='stem')(x)
    x = nn.Conv(16, (3, 3), strides=2, name='middle')(x)
    return nn.Dense(3, name='fc')(nn.relu(x).mean((1, 2)))


class ConvBN(nn.Module):
  """Convolution, BN and ReLU; or without BN."""

  features: int
  kernel_size: tuple[int, int] = (3, 3)
  strides: tuple[int, int] = (1, 1)
  bn: bool = True

  @nn.compact
  def __call__(self, x, training):
    x = nn.Conv(self.features, self.kernel_size, self.strides, use_bias=False)(x)
    return nn.relu(nn.BatchNorm(not training)(x) if self.bn else x)


class Step(nn.Module):
  """A step of a scanned stack."""

  bn: bool

  @nn.compact
  def __call__(self, x, training):
    return x + ConvBN(x.shape[-1], bn=self.bn)(x, training), None


class Stack(nn.Module):
  """Steps that are recomputed in the backward pass and scanned, as deep networks are compiled fast."""

  steps: int
  bn: bool = True

  @nn.compact
  def __call__(self, x, training):
    axes = {'params': 0, 'batch_stats': 0} if self.bn else {'params': 0}
    scanned = nn.scan(
      nn.remat(Step, static_argnums=(2,)),
      variable_axes=axes,
      split_rngs={'params': True},
      in_axes=nn.broadcast,
      length=self.steps,
    )
    return scanned(self.bn)(x, training)[0]


class Mixed(nn.Module):
  """In `setup` style, with a shared layer, layers in a list and in a dict, a scanned stack, and uneven kernels."""

  def setup(self):
    self.stem = ConvBN(8)
    self.shared = ConvBN(8)
    self.layers = [ConvBN(16, (3, 5), (2, 1)), nn.Conv(16, (1, 7))]
    self.by_name = {'wide': nn.remat(ConvBN, static_argnums=(2,))(16, (5, 3), (1, 2))}
    self.stack = Stack(3)
    self.compiled = nn.jit(ConvBN, static_argnums=(2,))(16)
    self.head = nn.Dense(3)

  def __call__(self, x, training=False):
    x = self.stem(x, training)
    x = self.shared(self.shared(x, training), training)
    x = self.layers[1](self.layers[0](x, training))
    x = self.by_name['wide'](x, training)
    x = self.compiled(self.stack(x, training), training)
    return {'logits': self.head(x.mean((1, 2)))}


class Stubborn(nn.Module):
  """All that cannot be replaced, and two layers that can."""

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(8, (3, 3), name='stem')(x)
    x = nn.Conv(12, (3, 3), name='twelve')(x)
    x = nn.Conv(16, (1, 1), name='pointwise')(x)
    x = nn.Conv(16, (3, 3), feature_group_count=2, name='grouped')(x)
    x = nn.Conv(16, (3, 3), mask=jnp.ones((3, 3, 16, 16)), name='masked')(x)
    x = nn.ConvLocal(4, (2, 2), name='local')(x)
    x = nn.ConvTranspose(16, (3, 3), strides=(2, 2), name='up')(x)
    x = Stack(2, bn=False, name='stack')(x, False)
    x = jax.lax.conv(x, self.param('kernel', nn.initializers.ones, (16, 16, 2, 2)), (2, 2), 'SAME')
    x = nn.Conv(16, (3, 3), name='open')(x)
    return nn.Conv(3, (3, 3), name='last')(x).mean((1, 2))
