"""Linen modules whose parameters, multiply-adds and activations are counted by hand."""

import flax.linen as nn
import jax.numpy as jnp

from moonshine_jax.models.user import create_user_model
from moonshine_jax.models.wide_resnet import WideResNet

MIXED = WideResNet(10, 1, ('S', 'G(N/8)', 'BG(2,M)'), 10)
SHAPE = (8, 8, 1)


class Step(nn.Module):
  @nn.compact
  def __call__(self, x, _):
    return nn.relu(nn.Conv(4, (3, 3), feature_group_count=2)(x)), None


class Anything(nn.Module):
  """A scan of 5, a layer that is computed anew, one that is used twice, self-attention and a bare product."""

  layers: list  # has no hash

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.Conv(4, (1, 1))(images)
    x, _ = nn.scan(Step, variable_axes={'params': 0}, split_rngs={'params': True}, length=5)()(x, None)
    shared = nn.remat(nn.ConvTranspose)(4, (2, 2), strides=(2, 2))
    x = nn.Dense(features=3, kernel_init=nn.initializers.zeros)(shared(x)) + nn.Dense(3)(shared(x) * 2)
    x = x.reshape(1, -1, 3)
    x = jnp.einsum('bij,bkj->bik', x, x) @ x
    return (x @ self.param('table', nn.initializers.normal(), (3, 10))).mean(1)


def make_user_model(name, block='S'):
  """A network of `tests.helpers.user` for images of 8x8 pixels, 2 channels and 3 classes."""
  return create_user_model(f'tests.helpers.user:{name}', block, 3, (8, 8, 2), 'float32', None)
