"""What the module of each file format has: `onnx`, `stablehlo` and `tflite`."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from jax.extend import core

ImagesToLogits = Callable[[np.ndarray], np.ndarray]  # uint8 (batch, height, width, channels) to (batch, classes)


class Format(Protocol):
  """A file format and its runtime: what each format's module has.

  Attributes:
    SUFFIX: of the files' names.
    MODULES: names of the Python modules that converting and loading need.
    SYMBOLIC_BATCH: whether a file takes any number of images; else it takes one.
    FORMULATIONS: ways to write a grouped convolution, as `graph.trace` names them. Where there are several, all are
      tried, and the first must work.
    QUANTISES: whether it can quantise weights and activations to 8 bits.
    convert: makes the content of a file from a graph, quantised where it gets calibration images.
    load: makes a function from images to logits of the content of a file.
    runtime_version: names the runtime and its version.
  """

  SUFFIX: str
  MODULES: tuple[str, ...]
  SYMBOLIC_BATCH: bool
  FORMULATIONS: tuple[str, ...]
  QUANTISES: bool
  convert: Callable[[core.ClosedJaxpr, np.ndarray | None], bytes]
  load: Callable[[bytes], ImagesToLogits]
  runtime_version: Callable[[], str]
