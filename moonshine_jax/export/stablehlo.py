"""StableHLO by `jax.export`, on any platform: `jax.export.deserialize(content).call(images)` in programs with JAX."""

from collections.abc import Callable

import jax
import numpy as np
from jax import export as jax_export
from jax.extend import core

SUFFIX = '.stablehlo'
MODULES = ('flatbuffers',)
SYMBOLIC_BATCH = True
FORMULATIONS = ('by platform',)  # measured rules of `ops/grouped_conv.py`
QUANTISES = False
PLATFORMS = ('cpu', 'cuda', 'tpu')


def convert(graph: core.ClosedJaxpr, calibration: np.ndarray | None = None) -> bytes:
  """The file of a graph."""
  assert calibration is None
  exported = jax_export.export(jax.jit(core.jaxpr_as_fun(graph)), platforms=PLATFORMS)(
    *(jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in graph.in_avals)
  )
  return bytes(exported.serialize())


def load(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
  """The network of a file, on one device: uint8 images (batch, height, width, channels) to logits (batch, classes)."""
  call = jax.jit(jax_export.deserialize(bytearray(content)).call)
  compiled = {}  # by the number of images

  def run(images):
    if len(images) not in compiled:
      # One thread on a CPU, as the other runtimes are measured.
      compiled[len(images)] = call.lower(images).compile({'xla_cpu_multi_thread_eigen': False})
    (logits,) = compiled[len(images)](images)
    return np.asarray(logits)

  return run


def version() -> str:
  """Of the runtime, in words."""
  return f'XLA of jax {jax.__version__}'
