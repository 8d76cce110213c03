"""Activations counted by hand, and beside what autodiff keeps."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from moonshine_jax.cost import counting
from moonshine_jax.models.resnet import ResNet
from moonshine_jax.models.wide_resnet import WideResNet
from tests.helpers import modules


def activations(model, image_shape):
  """Bytes for training and for inference."""
  profile = counting.profile(model, image_shape)
  return counting.training_bytes(model, profile.variables, image_shape), profile.inference_bytes


class Branches(nn.Module):
  """A dense block: what is concatenated is written again; a gate is broadcast at once; bfloat16 takes half."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.remat(nn.Conv)(8, (1, 1), use_bias=False, dtype=self.dtype)(images)
    x = jnp.concatenate([x, nn.Conv(8, (1, 1), use_bias=False, dtype=self.dtype)(x)], axis=-1)
    gate = nn.sigmoid(nn.Dense(16, use_bias=False, dtype=self.dtype)(x.mean((1, 2))))
    x = x * gate[:, None, None]
    return nn.Dense(3)(x.reshape(len(x), -1))


def test_activations_by_hand():
  image, half, whole = 64, 64 * 8, 64 * 16
  # The concatenation is read by the mean and by the gate's product, whose result the fully connected layer reads.
  peak, kept = max(2 * half + whole, 2 * whole + 16), image + half + whole + 16 + 16 + whole
  assert activations(Branches(), modules.SHAPE) == (4 * kept, 4 * peak)
  assert activations(Branches(jnp.bfloat16), modules.SHAPE) == (2 * kept, 2 * peak)


def test_activations_of_training_are_those_that_autodiff_keeps():
  images = jax.ShapeDtypeStruct((5, *modules.SHAPE), jnp.float32)  # 5 is the first axis of no parameter

  def transpose(variables, images):
    def logits(params):
      return modules.MIXED.apply({**variables, 'params': params}, images, train=True, mutable=['batch_stats'])[0][0]

    return jax.vjp(logits, variables['params'])[1]

  variables = jax.eval_shape(modules.MIXED.init, jax.random.key(0), images)
  kept = {id(var): var.aval for var in jax.make_jaxpr(transpose)(variables, images).jaxpr.outvars}  # some twice
  assert (
    counting.training_bytes(modules.MIXED, variables, modules.SHAPE)
    == 4 * sum(aval.size for aval in kept.values() if aval.ndim > 1 and aval.shape[0] == 5) // 5
  )


@pytest.mark.parametrize(
  ('block', 'numbers'),
  [
    # conv2 of the S network: the block's input, which the addition waits for, and a convolution's input and output.
    ('S', 3 * 64 * 16),
    # conv3's shortcut is the widest place of G(N): BN+ReLU's output feeds it and the 3x3, beside the block's 4x4 ones;
    # conv2 has as many arrays as above: input, BN+ReLU's output, convolution's output.
    ('G(N)', 3 * 64 * 16),
  ],
)
def test_the_peak_of_inference_by_hand(block, numbers):
  assert counting.profile(WideResNet(10, 1, block, 10), modules.SHAPE).inference_bytes == 4 * numbers


def test_a_block_with_a_shortcut_that_is_wider_than_its_input():
  # WRN-10-4: conv2's block goes from 16 to 64 channels: the shortcut's output, conv2's input and its output.
  assert counting.profile(WideResNet(10, 4, 'S', 10), modules.SHAPE).inference_bytes == 4 * 64 * (64 + 64 + 64)


def test_activations_of_a_resnet_by_hand():
  # ResNet-18 on 32x32 images: each layer's input, and the pool's. Each stage has as many arrays of its size as
  # convolutions and BN but for the first block's input, which is of the stage before.
  stem, image = 16 * 16 * 64, 32 * 32 * 3
  sizes = [8 * 8 * 64, 4 * 4 * 128, 2 * 2 * 256, 512]
  layer1, others = 8 * sizes[0], sum(before + 8 * size for before, size in itertools.pairwise(sizes))
  # At the peak the stem's BN+ReLU reads one array and writes another.
  assert activations(ResNet(18, 'S', 10), (32, 32, 3)) == (4 * (image + 2 * stem + layer1 + others + 512), 4 * 2 * stem)


def test_activations_of_a_network_of_others_by_hand():
  # On 8x8 images: the stem's convolution with its bias, and its ReLU; two stages of convolution and BN+ReLU. The mean
  # is of the last ReLU, of which the convolution is enough to know the sign.
  image, stem, first, second = 8 * 8 * 2, 8 * 8 * 8, 4 * 4 * 8, 2 * 2 * 16
  expected = 4 * (image + 2 * stem + 2 * first + second + 16), 4 * 2 * stem
  assert activations(modules.make_user_model('with_norm'), (8, 8, 2)) == expected
  # Dropout draws its masks anew; without BN, bias and ReLU follow a convolution at once.
  assert activations(modules.make_user_model('with_dropout'), (8, 8, 2)) == expected
