"""TFLite (LiteRT), written and quantised by TensorFlow's converter, run by its interpreter."""

import importlib.metadata
from collections.abc import Callable

import numpy as np
from jax.extend import core

SUFFIX = '.tflite'
MODULES = ('tensorflow',)
SYMBOLIC_BATCH = False  # its memory is planned for one size; an interpreter can resize the input
FORMULATIONS = ('grouped', 'blocks', 'dense')
QUANTISES = True


def convert(graph: core.ClosedJaxpr, calibration: np.ndarray | None = None) -> bytes:
  """The file of a graph.

  Args:
    graph: of `graph.trace`, with a batch of one.
    calibration: uint8 (images, height, width, channels), for which the network is quantised to 8 bits; None for
      float32.
  """
  import tensorflow as tf
  from jax.experimental import jax2tf

  images, = graph.in_avals
  call = tf.function(
    lambda images: {'logits': jax2tf.convert(core.jaxpr_as_fun(graph), with_gradient=False)(images)[0]},
    input_signature=[tf.TensorSpec(images.shape, tf.uint8, 'images')], autograph=False)
  module = tf.Module()
  module.call = call
  converter = tf.lite.TFLiteConverter.from_concrete_functions([call.get_concrete_function()], module)
  if calibration is not None:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([calibration[i:i + 1]] for i in range(len(calibration)))
  return converter.convert()


def load(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
  """The network of a file, on one thread: uint8 images (batch, height, width, channels) to logits (batch, classes)."""
  import tensorflow as tf

  interpreter = tf.lite.Interpreter(model_content=content, num_threads=1)
  interpreter.allocate_tensors()
  (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()

  def run(images):
    logits = []
    for i in range(len(images)):
      interpreter.set_tensor(source['index'], images[i:i + 1])
      interpreter.invoke()
      logits.append(interpreter.get_tensor(target['index']))
    return np.concatenate(logits)

  return run


def version() -> str:
  """Of the runtime, in words."""
  return f'TFLite of TensorFlow {importlib.metadata.version("tensorflow")}'
