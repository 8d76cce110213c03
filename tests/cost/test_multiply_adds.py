"""Multiply-adds counted by hand."""

import flax.linen as nn
import jax

from moonshine_jax.cost import counting
from tests.helpers import modules


def test_multiply_adds_counted_by_hand():
  # WRN-10-1 with blocks S, G(N/8) and BG(2,M) on 8x8 images of 1 channel: output positions times weights.
  stem = 64 * 9 * 1 * 16
  conv2 = 64 * (9 * 16 * 16) * 2  # the shortcut is the identity
  conv3 = 16 * (9 * 16 * 8 + 16 * 32 + 9 * 32 * 8 + 32 * 32 + 16 * 32)
  conv4 = 16 * 32 * 32 + 4 * (9 * 32 + 32 * 64 + 32 * 64)  # the first 1x1 comes before the stride
  fully_connected = 64 * 10
  assert (
    counting.count_cost(modules.MIXED, modules.SHAPE).multiply_adds == stem + conv2 + conv3 + conv4 + fully_connected
  )


def test_modules_of_any_kind_by_hand():
  positions = 8 * 8
  scan, transposed, dense = 5 * positions * 9 * 2 * 4, positions * 4 * 4 * 4, 4 * positions * 4 * 3
  counted = counting.count_cost(modules.Anything([]), modules.SHAPE)
  assert counted.multiply_adds == positions * 4 + scan + 2 * transposed + 2 * dense + 4 * positions * 3 * 10
  assert counted.parameters == (4 + 4) + 5 * (9 * 2 * 4 + 4) + (4 * 4 * 4 + 4) + 2 * (4 * 3 + 3) + 30


def test_what_cannot_be_counted_is_said(capsys):
  class While(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
      kernel = self.param('kernel', nn.initializers.normal(), (1, 1))
      return jax.lax.while_loop(lambda x: x.sum() < 3, lambda x: x @ kernel, images)

  assert counting.count_cost(While(), modules.SHAPE) == counting.Cost(1, None)
  assert capsys.readouterr().err == (
    'warning: the multiply-adds of While are not counted: there are convolutions or matrix products inside of while\n'
  )
