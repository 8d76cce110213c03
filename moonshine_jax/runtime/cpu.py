"""The CPU that this process runs on, on Linux and on macOS. Imports no JAX: processes that decode images need none."""

import os
import platform

# How XLA compiles for a CPU whatever may meet numbers that are not finite: without the fusions of the library YNNPACK.
# Its maximum and minimum drop NaN, so that a reduction after ReLU, or a maximum, makes a finite number of it (jaxlib
# 0.10 to 0.12), and a network that diverged would have a loss. Train steps are no slower without.
COMPILER_OPTIONS = {'xla_cpu_experimental_ynn_fusion_type': ''}


def available_cores() -> int:
  """Returns the number of cores that this process may use, at least 1.

  Linux counts those that the process is bound to, as by `taskset` or a container; macOS binds no process, so that all
  cores count.
  """
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def processor_name() -> str:
  """Returns the processor's name as Linux has it, such as 'AMD EPYC 7B13', or else its kind, such as 'arm'."""
  try:
    with open('/proc/cpuinfo') as file:
      return next(line.split(':', 1)[1].strip() for line in file if line.startswith('model name'))
  except (OSError, StopIteration):  # macOS has no such file, and Linux on ARM no such line in it
    return platform.processor() or platform.machine()
