"""Compiles every network's train and evaluation step for an NVIDIA GPU, without one, and counts what they launch.

  launch/setup.sh gpu-aot   # XLA's compiler for CUDA; it needs no GPU and no driver
  python -m benchmarks.gpu --json=aot_h100.json
  python -m benchmarks.gpu --networks S 'G(N/8)' --devices 2

What is compiled is what training runs: the loop over the steps of a dispatch, with the resident feed's gather,
augmentation, BN over the whole batch and SGD, and the evaluation step; on one device by `jit`, on more by `pmap`. For
each the table has, for one step on one device:

  kernels: what the GPU is given to run, by kind: calls of cuDNN and of cuBLAS (products that XLA writes itself among
    them), reductions, elementwise, copies (transposes, slices, casts, padding), collectives. Of these `optimiser` are
    the optimiser's.
  MB moved: the bytes of every kernel's operands and results, as `benchmarks/hlo.py` counts them.
  floor MB: the least, by the passes over the activations that `benchmarks/roofline.py` counts; of a train step.
  MB temporary: memory beside the arguments and the results.
  s: of compilation.

The GPU is described by a file, the default by `benchmarks/h100.txt`; `python -m benchmarks.accelerator` writes that of
the GPU that it runs on. Nothing is tuned and no time is estimated: which of its convolutions cuDNN takes is decided on
a GPU alone. There must be all-reduces alone among the collectives. The command says where another is, and ends with
status 1. Compiling WRN-40-2 takes a minute or two of a core; the JSON is written after each network.
"""

import argparse
import importlib.util
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from benchmarks.command import make_config, make_network, make_parser, write_json
from benchmarks.hlo import COLLECTIVES, Kernel, Program
from benchmarks.lowering import DescribedReplicas, describe_steps
from benchmarks.roofline import activation_passes
from moonshine_jax.models.wide_resnet import Architecture

KINDS = ('cudnn', 'cublas', 'reduction', 'elementwise', 'copy')


def main(arguments: list[str] | None = None) -> None:
  """Compiles both steps of every network and prints the counts; exits with 1 for a collective but all-reduce."""
  parser = make_parser(__doc__, repeats=None, dtype='bfloat16')
  parser.add_argument('--batch', type=int, default=128, help='images in a step, over all devices (default: 128)')
  parser.add_argument(
    '--devices', type=int, nargs='+', default=[1, 2], help='numbers of devices to compile for (default: 1 2)'
  )
  parser.add_argument(
    '--target', default=str(Path(__file__).with_name('h100.txt')), help='describes the GPU (default: an H100)'
  )
  flags = parser.parse_args(arguments)
  for devices in flags.devices:
    if devices < 1 or flags.batch % devices:
      parser.error(f'--batch={flags.batch} on {devices} devices: expected a multiple of the devices')
  replicas = [DescribedReplicas(find_devices(parser, flags.target, devices)) for devices in flags.devices]

  device = replicas[0].devices[0].device_kind
  print(f'{device}, {flags.dtype}, batch {flags.batch}; for one step on one device')
  print_header()
  rows = []
  for architecture in flags.networks:
    for of_devices in replicas:
      rows.append(count_network(architecture, flags, of_devices))
      print_row(rows[-1])
      write_json(flags.json, flags, rows, device=device)
  foreign = [row for row in rows for step in ('train', 'evaluation') if foreign_collectives(row[step]['kernels'])]
  for row in foreign:
    print(f'{row["network"]}, {row["devices"]} devices: expected all-reduces alone', file=sys.stderr)
  sys.exit(1 if foreign else 0)


def find_devices(parser: argparse.ArgumentParser, target: str, devices: int) -> Sequence[Any]:
  """Describes GPUs, which the machine need not have; ends the command without a compiler or for a bad description."""
  if importlib.util.find_spec('jax_cuda13_plugin') is None:
    parser.error(
      'jax_cuda13_plugin, the compiler for CUDA, is not installed: expected it as launch/setup.sh gpu-aot installs it'
    )
  jax.config.update('jax_platforms', 'cpu')  # for the process itself: a GPU that the machine has stays free
  try:
    topology = topologies.get_topology_desc(
      platform='cuda', target_config=Path(target).read_text('utf-8'), topology=f'1x1x{devices}'
    )
    return topology.devices
  except (OSError, jax.errors.JaxRuntimeError) as error:
    parser.error(f'--target={target}: {str(error).splitlines()[0]}: expected a description as benchmarks/h100.txt')


def count_network(architecture: Architecture, flags: argparse.Namespace, replicas: DescribedReplicas) -> dict:
  """Compiles both steps of a network and returns its row of the table."""
  train, evaluation = describe_steps(architecture, flags, replicas)
  model = make_network(make_config(architecture, flags.batch, flags.dtype)).model
  image_shape = (flags.image_size, flags.image_size, 3)
  floor = activation_passes(model, image_shape) * jax.numpy.dtype(flags.dtype).itemsize * flags.batch
  return {
    'network': str(architecture),
    'devices': len(replicas),
    'floor_bytes': floor // len(replicas),
    'train': compile_and_count(train),
    'evaluation': compile_and_count(evaluation),
  }


def compile_and_count(lower: Callable[[], jax.stages.Lowered]) -> dict:
  """Compiles a program and counts a step: of its loop, or all of it where it has none.

  Raises:
    ValueError: for a program without a call of cuDNN: it was compiled for the CPU.
  """
  lowered = lower()
  start = time.perf_counter()
  compiled = lowered.compile()
  seconds = time.perf_counter() - start
  program = Program(compiled.as_text())
  kernels = list(program.kernels(program.loop_body()))
  if not any(kernel.kind == 'cudnn' for kernel in kernels):
    raise ValueError('no convolution of cuDNN in the program: it was not compiled for a GPU')
  return {
    'kernels': dict(Counter(kernel.kind for kernel in kernels)),
    'optimiser': sum(is_of_optimiser(kernel) for kernel in kernels),
    'bytes_moved': sum(kernel.bytes for kernel in kernels),
    'bytes_temporary': compiled.memory_analysis().temp_size_in_bytes,
    'compile_seconds': round(seconds, 1),
  }


def is_of_optimiser(kernel: Kernel) -> bool:
  """Whether a kernel is the optimiser's, by the scope that the train step has for it."""
  return '/optimizer/' in kernel.scope


def foreign_collectives(kernels: dict[str, int]) -> set[str]:
  """Returns the kinds of collectives other than all-reduces in a count of kernels."""
  return (kernels.keys() & COLLECTIVES) - {'all-reduce'}


def print_header() -> None:
  """Prints the head of the table."""
  step = (
    f'{"kernels":>8} ' + ' '.join(f'{kind:>11}' for kind in KINDS) + f' {"MB moved":>9} {"MB temporary":>13} {"s":>6}'
  )
  print(f'{"network":<18} {"devices":>7}  step       {step} {"optimiser":>10} {"floor MB":>9}  collectives', flush=True)


def print_row(row: dict) -> None:
  """Prints the counts of both steps of a network."""
  for name in ('train', 'evaluation'):
    step = row[name]
    kernels = step['kernels']
    print(
      f'{row["network"]:<18} {row["devices"]:>7}  {name:<10} {sum(kernels.values()):>8} '
      + ' '.join(f'{kernels.get(kind, 0):>11}' for kind in KINDS)
      + f' {step["bytes_moved"] / 1e6:>9.1f} {step["bytes_temporary"] / 1e6:>13.1f} {step["compile_seconds"]:>6.1f}'
      + (f' {step["optimiser"]:>10} {row["floor_bytes"] / 1e6:>9.1f}' if name == 'train' else f'{"":>21}')
      + '  '
      + ', '.join(f'{count} {kind}' for kind, count in kernels.items() if kind not in KINDS),
      flush=True,
    )


if __name__ == '__main__':
  main()
