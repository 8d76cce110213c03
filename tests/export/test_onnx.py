"""ONNX files: what the command writes, and which operations are in them."""

import collections

from jax import export as jax_export

from moonshine_jax.export import graph, onnx
from tests.helpers.exports import (
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
