"""Layers in plain NumPy and float64, with which the tests of the networks compute what these should."""

import jax
import jax.numpy as jnp
import numpy as np


def convolution(x, kernel, strides=1, groups=1, dilation=1):
  """Cross-correlation of NHWC with HWIO, padded by dilation * (k - 1) // 2: a sum over the kernel's positions."""
  k, channels = kernel.shape[0], kernel.shape[2]
  pad = dilation * (k - 1) // 2
  padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  height, width = ((size + 2 * pad - dilation * (k - 1) - 1) // strides + 1 for size in x.shape[1:3])
  out_channels = kernel.shape[3] // groups
  out = np.zeros((len(x), height, width, kernel.shape[3]))
  for group in range(groups):
    ins, outs = slice(group * channels, (group + 1) * channels), slice(group * out_channels, (group + 1) * out_channels)
    for row in range(k):
      for column in range(k):
        shifted = padded[:, row * dilation :, column * dilation :][:, ::strides, ::strides][:, :height, :width, ins]
        out[..., outs] += shifted @ kernel[row, column][:, outs]
  return out


def batch_norm(x, params, stats, train):
  """BN of NHWC with the statistics of the batch, or with those given."""
  mean, variance = (x.mean((0, 1, 2)), x.var((0, 1, 2))) if train else (stats['mean'], stats['var'])
  return (x - mean) / np.sqrt(variance + 1e-5) * params['scale'] + params['bias']


def random_variables(model, shape, seed):
  """Variables of the model's shapes, none of them at a special value."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))

  def draw(path, leaf):
    if leaf.ndim > 1:
      return rng.normal(0, 1 / np.sqrt(np.prod(leaf.shape[:-1])), leaf.shape)
    return rng.uniform(0.5, 1.5, leaf.shape) if path[-1].key in ('scale', 'var') else rng.normal(0, 0.3, leaf.shape)

  return jax.tree.map_with_path(draw, shapes)
