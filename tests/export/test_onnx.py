"""ONNX files: what the command writes, and which operations are in them."""

import collections

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export
from jax import lax

from moonshine_jax.export import graph, onnx
from moonshine_jax.models.resnet import ResNet
from tests.helpers.exports import (
  IMAGE_SHAPE,
  MIXED_BLOCKS,
  assert_exports_float32_and_int8,
  describe_images,
  random_network,
  skip_without,
)


def test_the_command_writes_float32_and_int8(digits_runs, tmp_path):
  skip_without(onnx)
  assert_exports_float32_and_int8(digits_runs, tmp_path / 'student.onnx', onnx, 'onnx')


def test_the_operations_of_a_file():
  skip_without(onnx)
  import onnx as onnx_library

  (batch,) = jax_export.symbolic_shape('batch')
  traced = graph.trace(*random_network(MIXED_BLOCKS), describe_images(batch), 'grouped')
  model = onnx_library.load_from_string(onnx.convert(traced))
  nodes = collections.Counter((node.domain, node.op_type) for node in model.graph.node)
  # Biases are inputs of the convolutions; additions are those of the BNs that stay, of the 3 blocks, of the images and
  # of the last layer. One transposition for the input, and one for the pool.
  assert nodes == {
    ('', 'Cast'): 1,
    ('', 'Conv'): 12,
    ('', 'Relu'): 10,
    ('', 'Mul'): 6,
    ('', 'Add'): 4 + 3 + 1 + 1,
    ('', 'Transpose'): 2,
    ('', 'ReduceSum'): 1,
    ('', 'Gemm'): 1,
  }


def window(reducer, start, shape, strides, padding, dilation=(1, 1, 1, 1)):
  return lambda x: lax.reduce_window(x, start, reducer, shape, strides, padding, window_dilation=dilation)


class OneLayer(nn.Module):
  """A layer between a convolution and logits."""

  layer: object

  @nn.compact
  def __call__(self, images, train=False):
    x = self.layer(nn.Conv(8, (3, 3))(images))
    return nn.Dense(5)(x.reshape(x.shape[0], -1, x.shape[-1]).mean(1)), ()


def as_rows(x):
  return x.reshape(x.shape[0], -1, x.shape[-1])


def as_volume(x):
  return x.reshape(x.shape[0], x.shape[1], x.shape[2] // 2, 2, x.shape[-1])


def strided(x):
  return nn.Conv(8, (2, 2), strides=(2, 1), padding='VALID')(x)


def dilated_and_grouped(x):
  return nn.Conv(8, (3, 3), feature_group_count=4, kernel_dilation=2)(x)


LAYERS = {
  'maximum': lambda x: nn.max_pool(x, (2, 2), (2, 2)),
  "ResNet's": lambda x: nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))),
  'same': lambda x: nn.max_pool(x, (3, 3), (2, 2), 'SAME'),
  'rows': lambda x: nn.max_pool(x, (2, 1), (2, 1)),
  'whole images': lambda x: nn.max_pool(x, x.shape[1:3]),
  'one pixel': lambda x: nn.max_pool(x, (1, 1)),
  'channels': window(lax.max, -jnp.inf, (1, 1, 1, 2), (1, 1, 1, 2), 'VALID'),
  'dilated': window(lax.max, -jnp.inf, (1, 2, 2, 1), (1, 1, 1, 1), 'VALID', (1, 2, 3, 1)),
  'two pools': lambda x: nn.max_pool(nn.max_pool(x, (2, 2)), (3, 3), padding='SAME'),
  'minimum': window(lax.min, jnp.inf, (1, 3, 3, 1), (1, 2, 2, 1), 'SAME'),
  'average': lambda x: nn.avg_pool(x, (3, 3), (2, 2), 'SAME'),
  'average of what is there': lambda x: nn.avg_pool(x, (3, 3), (2, 2), 'SAME', count_include_pad=False),
  'in 1 dimension': lambda x: nn.max_pool(as_rows(x), (3,), (2,), 'SAME'),
  'in 3 dimensions': lambda x: nn.max_pool(as_volume(x), (2, 2, 2), (2, 2, 2), 'SAME'),
  'convolution in 1 dimension': lambda x: nn.Conv(6, (3,), strides=2)(as_rows(x)),
  'grouped convolution in 1 dimension': lambda x: nn.Conv(8, (3,), feature_group_count=4)(as_rows(x)),
  'strided': strided,
  'dilated and grouped': dilated_and_grouped,
  'softmax': lambda x: nn.softmax(x.mean((1, 2))),
}


@pytest.mark.parametrize('name', [*LAYERS, 'ResNet-18'])
def test_layers_of_users_networks(name):
  skip_without(onnx)
  model = ResNet(18, 'S', 10) if name == 'ResNet-18' else OneLayer(LAYERS[name])
  network, variables = random_network(model)
  shape = (9, *IMAGE_SHAPE[1:])  # a size that strides do not divide, and one that they do
  (batch,) = jax_export.symbolic_shape('batch')
  images = jax.ShapeDtypeStruct((batch, *shape), jnp.uint8)
  content = onnx.convert(graph.trace(network, variables, images, 'grouped'))
  images = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
  expected, _ = network(variables, images, train=False)
  np.testing.assert_allclose(onnx.load(content)(images), expected, atol=1e-5 * np.abs(expected).max())


def test_a_pool_over_all_axes_is_refused():
  skip_without(onnx)
  pool = window(lax.max, -jnp.inf, (1, 2, 2, 2), (1, 1, 1, 1), 'VALID')
  with pytest.raises(ValueError, match='^a pool over 3 of 4 axes: expected at most 3, with two others$'):
    onnx.convert(graph.trace(*random_network(OneLayer(pool)), describe_images(1), 'grouped'))
