"""The ONNX format: files are written by jax2onnx, and run and quantised by ONNX Runtime."""

import importlib.metadata
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
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

  def call(images: jax.Array) -> jax.Array:
    # jax2onnx knows a ReLU by the function's name, and would write a maximum, which no runtime fuses or quantises.
    def apply(eqn: core.JaxprEqn, inputs: list[Any]) -> Any:
      return jax.nn.relu(inputs[0]) if graph_lib.is_relu(eqn) else eqn.primitive.bind(*inputs, **eqn.params)

    return graph_lib.interpret(graph, [images], apply)[0]

  (images,) = graph.in_avals
  model = jax2onnx.to_onnx(
    call,
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
  content = _simplify(model.SerializeToString())
  return content if calibration is None else _quantise(content, calibration)


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
  session = onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])
  return lambda images: session.run(None, {'images': images})[0]


def _simplify(content: bytes) -> bytes:
  """Removes transpositions from JAX's order of axes to ONNX's.

  ONNX Runtime does it. Its basic level of optimisation keeps to the operations of the ONNX standard.
  """
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
  options.log_severity_level = 3  # errors
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
