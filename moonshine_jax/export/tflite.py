"""The TFLite format: files are written and quantised by TensorFlow's converter, and run by LiteRT.

LiteRT is the present name of TFLite's interpreter.
"""

import contextlib
import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterator

import numpy as np
from jax.extend import core

SUFFIX = '.tflite'
MODULES = ('tensorflow', 'ai_edge_litert')
SYMBOLIC_BATCH = False  # the memory of a file is planned for one size; an interpreter can resize the input
FORMULATIONS = ('grouped', 'blocks', 'dense')
QUANTISES = True


def convert(graph: core.ClosedJaxpr, calibration: np.ndarray | None = None) -> bytes:
  """Makes a TFLite file of a graph.

  Args:
    graph: of `graph.trace`, with a batch of one.
    calibration: uint8 (images, height, width, channels), from which the converter takes the ranges of activations to
      quantise the network to 8 bits; None for float32.

  Returns:
    The content of the file.
  """
  with _quiet():
    return _convert(graph, calibration)


def _convert(graph: core.ClosedJaxpr, calibration: np.ndarray | None) -> bytes:
  """Makes a TFLite file of a graph, with the messages of TensorFlow's libraries on stderr."""
  import tensorflow as tf
  from jax.experimental import jax2tf

  (images,) = graph.in_avals
  call = tf.function(
    lambda images: {'logits': jax2tf.convert(core.jaxpr_as_fun(graph), with_gradient=False)(images)[0]},
    input_signature=[tf.TensorSpec(images.shape, tf.uint8, 'images')],
    autograph=False,
  )
  module = tf.Module()
  module.call = call
  converter = tf.lite.TFLiteConverter.from_concrete_functions([call.get_concrete_function()], module)
  if calibration is not None:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([calibration[i : i + 1]] for i in range(len(calibration)))
  return converter.convert()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences what TensorFlow's libraries write to stderr; errors are raised all the same."""
  sys.stderr.flush()
  stderr = os.dup(2)
  try:
    with open(os.devnull, 'w') as null:
      os.dup2(null.fileno(), 2)
    yield
  finally:
    os.dup2(stderr, 2)
    os.close(stderr)


def load(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
  """Loads a TFLite file into LiteRT, on one thread of the CPU.

  Args:
    content: of the file.

  Returns:
    A function from uint8 images (batch, height, width, channels) to logits (batch, classes). It runs one image at a
    time.
  """
  from ai_edge_litert.interpreter import Interpreter

  with _quiet():
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
  (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()

  def run(images: np.ndarray) -> np.ndarray:
    logits = []
    for i in range(len(images)):
      interpreter.set_tensor(source['index'], images[i : i + 1])
      interpreter.invoke()
      logits.append(interpreter.get_tensor(target['index']))
    return np.concatenate(logits)

  return run


def runtime_version() -> str:
  """Names the runtime and the converter with their versions."""
  return f'LiteRT {importlib.metadata.version("ai-edge-litert")}, TensorFlow {importlib.metadata.version("tensorflow")}'
