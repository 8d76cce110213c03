"""The StableHLO format: files are written by `jax.export`, for any platform.

In a program with JAX, `jax.export.deserialize(content).call(images)` runs a file.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import export as jax_export
from jax.extend import core

SUFFIX = '.stablehlo'
MODULES = ('flatbuffers',)
SYMBOLIC_BATCH = True
FORMULATIONS = ('by platform',)  # by the measured rules of `ops/grouped_conv.py`
QUANTISES = False
PLATFORMS = ('cpu', 'cuda', 'tpu')


def convert(graph: core.ClosedJaxpr, calibration: np.ndarray | None = None) -> bytes:
  """Makes a StableHLO file of a graph, for PLATFORMS.

  Args:
    graph: of `graph.trace`.
    calibration: None: there is no quantiser.

  Returns:
    The content of the file.
  """
  assert calibration is None
  exported = jax_export.export(jax.jit(core.jaxpr_as_fun(graph)), platforms=PLATFORMS)(
    *(jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in graph.in_avals)
  )
  return bytes(exported.serialize())


def load(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
  """Loads a StableHLO file into XLA, on one device.

  Args:
    content: of the file.

  Returns:
    A function from uint8 images (batch, height, width, channels) to logits (batch, classes). It compiles at the first
    call with each number of images, for one thread on a CPU.
  """
  call = jax.jit(jax_export.deserialize(bytearray(content)).call)
  compiled: dict[int, Any] = {}  # by the number of images

  def run(images: np.ndarray) -> np.ndarray:
    if len(images) not in compiled:
      # One thread on a CPU, as the other runtimes are measured.
      compiled[len(images)] = call.lower(images).compile({'xla_cpu_multi_thread_eigen': False})
    (logits,) = compiled[len(images)](images)
    return np.asarray(logits)

  return run


def runtime_version() -> str:
  """Names the runtime with its version."""
  return f'XLA of jax {jax.__version__}'
