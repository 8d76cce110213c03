"""The ONNX format: files are written by jax2onnx, and run and quantised by ONNX Runtime."""

import importlib.metadata
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend import core

from moonshine_jax.export import graph as graph_lib

SUFFIX = '.onnx'
MODULES = ('jax2onnx', 'onnxruntime')
SYMBOLIC_BATCH = True
FORMULATIONS = ('grouped', 'blocks', 'dense')
QUANTISES = True
CALIBRATION_BATCH = 32  # images at a time


def convert(graph: core.ClosedJaxpr, calibration: np.ndarray | None = None) -> bytes:
  """Makes an ONNX file of a graph, with the input `images` and the output `logits`.

  Args:
    graph: of `graph.trace`.
    calibration: uint8 (images, height, width, channels), from which ONNX Runtime takes the ranges of activations to
      quantise the network to 8 bits; None for float32.

  Returns:
    The content of the file.
  """
  import jax2onnx
  from onnx import numpy_helper

  logging.getLogger('onnx_ir').setLevel(logging.ERROR)  # it warns of shapes that it does not need
  (images,) = graph.in_avals
  model = jax2onnx.to_onnx(
    lambda images: graph_lib.interpret(graph, [images], _apply)[0],
    [jax.ShapeDtypeStruct(images.shape, images.dtype)],
    model_name='network',
    input_names=['images'],
    output_names=['logits'],
  )
  # jax2onnx adds biases of zero, numbers without axes, to products, and the quantiser fails on them: they are removed.
  zeros = {tensor.name for tensor in model.graph.initializer if not numpy_helper.to_array(tensor).any()}
  for node in model.graph.node:
    if node.op_type == 'Gemm' and node.input[2:] and node.input[2] in zeros:
      del node.input[2]
  _pool_over_images(model.graph)
  content = _simplify(model.SerializeToString())
  return content if calibration is None else _quantise(content, calibration)


def _apply(eqn: core.JaxprEqn, inputs: list[Any]) -> Any:
  """Computes an operation by those that jax2onnx knows."""
  if graph_lib.is_relu(eqn):  # known by the function's name: no runtime fuses or quantises a maximum
    return jax.nn.relu(inputs[0])
  if eqn.primitive is lax.reduce_window_min_p:
    return -lax.reduce_window_max_p.bind(-inputs[0], **eqn.params)
  return eqn.primitive.bind(*inputs, **eqn.params)


def _pool_over_images(graph: Any) -> None:
  """Rewrites pools over all axes of an array, as jax2onnx writes them, to pools over the axes between two others.

  Runtimes pool over 1 to 3 axes. jax2onnx puts two axes of 1 before the array, and takes them off behind the pool.

  Args:
    graph: a GraphProto, which is changed.

  Raises:
    ValueError: for a window over more than 3 axes, or over all but one axis.
  """
  from onnx import helper

  makers = {node.output[0]: node for node in graph.node}
  readers = {node.input[0]: node for node in graph.node if node.op_type == 'Squeeze'}
  for pool in [node for node in graph.node if node.op_type == 'MaxPool']:
    attributes = {attribute.name: list(attribute.ints) for attribute in pool.attribute}
    kernel = attributes['kernel_shape']
    rank = len(kernel)
    unsqueezes, squeeze = (inner := makers[pool.input[0]], makers[inner.input[0]]), readers[pool.output[0]]
    pads = attributes.get('pads', [0] * 2 * rank)
    per_axis = list(zip(kernel, attributes['strides'], pads[:rank], pads[rank:], strict=True))
    windowed = [axis for axis, numbers in enumerate(per_axis) if numbers != (1, 1, 0, 0)]
    left_out = [axis for axis in (0, rank - 1, *range(1, rank - 1)) if axis not in windowed][:2]
    if rank > 5 or len(left_out) < 2:
      raise ValueError(f'a pool over {len(windowed)} of {rank} axes: expected at most 3, with two others')
    order = sorted(left_out) + [axis for axis in range(rank) if axis not in left_out]
    first, last = f'{pool.name}_in', f'{pool.name}_out'
    nodes = [
      helper.make_node('Transpose', [unsqueezes[1].input[0]], [first], f'{pool.name}_to', perm=order),
      helper.make_node(
        'MaxPool',
        [first],
        [last],
        pool.name,
        **{name: _of_axes(numbers, order[2:], rank) for name, numbers in attributes.items()},
      ),
      helper.make_node('Transpose', [last], [squeeze.output[0]], f'{pool.name}_from', perm=np.argsort(order).tolist()),
    ]
    position = list(graph.node).index(squeeze)
    for node in (*unsqueezes, pool, squeeze):
      graph.node.remove(node)
    for node in reversed(nodes):
      graph.node.insert(position - 3, node)


def _of_axes(numbers: list[int], axes: list[int], rank: int) -> list[int]:
  """Returns an attribute's numbers of some axes; those of `pads` are of all beginnings, then of all ends."""
  return [numbers[start + axis] for start in range(0, len(numbers), rank) for axis in axes]


def load(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
  """Loads an ONNX file into ONNX Runtime, on one thread of the CPU.

  Args:
    content: of the file.

  Returns:
    A function from uint8 images (batch, height, width, channels) to logits (batch, classes).
  """
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = options.inter_op_num_threads = 1
  options.log_severity_level = 4  # what is fatal: errors are raised
  session = onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])
  return lambda images: session.run(None, {'images': images})[0]


def _simplify(content: bytes) -> bytes:
  """Removes transpositions from JAX's order of axes to ONNX's.

  ONNX Runtime does it. Its basic level of optimisation keeps to the operations of the ONNX standard.
  """
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
  options.log_severity_level = 4
  with tempfile.TemporaryDirectory() as folder:
    options.optimized_model_filepath = os.path.join(folder, 'simplified')
    onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])
    return Path(options.optimized_model_filepath).read_bytes()


def _quantise(content: bytes, calibration: np.ndarray) -> bytes:
  """Quantises weights and activations to 8 bits, weights by output channel."""
  from onnxruntime import quantization
  from onnxruntime.quantization.shape_inference import quant_pre_process

  class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    def __init__(self) -> None:
      self._batches = (
        {'images': calibration[i : i + CALIBRATION_BATCH]} for i in range(0, len(calibration), CALIBRATION_BATCH)
      )

    def get_next(self) -> dict[str, np.ndarray] | None:
      return next(self._batches, None)

  with tempfile.TemporaryDirectory() as folder:
    path, prepared, quantised = (os.path.join(folder, name) for name in ('float', 'prepared', 'int8'))
    Path(path).write_bytes(content)
    quant_pre_process(path, prepared)
    # Weights of 7 bits, since processors without VNNI add pairs of products of 8 bits in 16, where they do not fit.
    quantization.quantize_static(prepared, quantised, Reader(), per_channel=True, reduce_range=True)
    return Path(quantised).read_bytes()


def runtime_version() -> str:
  """Names the runtime and the converter with their versions."""
  return f'ONNX Runtime {importlib.metadata.version("onnxruntime")}, jax2onnx {importlib.metadata.version("jax2onnx")}'
