"""The CPU that this process runs on, on Linux and on macOS. Imports no JAX: processes that decode images need none."""

import os
import platform
import re
import subprocess
from collections.abc import Collection

# How XLA compiles for a CPU whatever may meet numbers that are not finite: without the fusions of the library YNNPACK.
# Its maximum and minimum drop NaN, so that a reduction after ReLU, or a maximum, makes a finite number of it (jaxlib
# 0.10 to 0.12), and a network that diverged would have a loss. Train steps are no slower without.
COMPILER_OPTIONS = {'xla_cpu_experimental_ynn_fusion_type': ''}


# The instructions that convolutions and matrix products can be made of, as Linux and macOS name them: of x86, where
# `sme` and `smep` are other things, and of ARM.
X86_SETS = re.compile('sse4|avx|fma|f16c|amx')
ARM_SETS = re.compile('advsimd|asimd|neon|sve|sme|bf16|i8mm|dotprod|fp16')


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


def instruction_sets() -> list[str]:
  """Returns the instruction sets on which the speed of a network depends, by the system's names, in order.

  As ['avx', 'avx2', 'avx512f', 'fma'] of /proc/cpuinfo on Linux, or ['bf16', 'neon'] of sysctl on macOS; none where
  neither is.
  """
  try:
    with open('/proc/cpuinfo') as file:
      line = next((line for line in file if line.startswith(('flags', 'Features'))), 'flags:')  # of x86, and of ARM
    names, sets = line.split(':', 1)[1].split(), X86_SETS if line.startswith('flags') else ARM_SETS
  except OSError:
    names = re.findall(r'^hw\.optional\.(?:arm\.)?(?:FEAT_)?(\w+): 1$', _sysctl('hw.optional'), re.MULTILINE)
    sets = re.compile(f'{X86_SETS.pattern}|{ARM_SETS.pattern}')
  return sorted({name.lower() for name in names if sets.match(name.lower())})


def widest_instruction_set(names: Collection[str]) -> str:
  """Names in a word what tells x86 processors of one family apart: AMX, AVX-512 or AVX2; empty for none of them."""
  kinds = {'amx_tile': 'AMX', 'avx512f': 'AVX-512', 'avx2': 'AVX2'}
  return next((word for name, word in kinds.items() if name in names), '')


def _sysctl(name: str) -> str:
  """What macOS says of its hardware under a name, a line each; empty on other systems."""
  try:
    return subprocess.run(('sysctl', name), capture_output=True, text=True, check=False).stdout
  except OSError:
    return ''
