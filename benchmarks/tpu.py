"""Compiles every network's train and evaluation step for a Cloud TPU, without one, and prints XLA's estimates.

  launch/setup.sh tpu   # libtpu, the TPU's compiler; it needs no TPU
  python -m benchmarks.tpu --json=aot_v5e.json
  python -m benchmarks.tpu --networks 'WRN-16-2 G(N)' 'WRN-16-2 G(N/8)' --formulations rule lax dense
  python -m benchmarks.tpu --networks S --topology=v5e:2x4

What is compiled is what training runs on all devices of the topology: the pmapped loop over the steps of a dispatch,
with the resident feed's gather, augmentation, BN over the whole batch, SGD and donated states; and the pmapped
evaluation step. For both the table has, for one step on one device:

  kcycles: thousands of cycles, the sum of what XLA's compiler estimates for its operations. It estimates none for
    collectives and for copies beside other work. An estimate is no measurement: it is for comparison alone.
  MB moved: bytes that its operations access, by XLA's cost analysis.
  MB held: arguments, results and temporaries together, the data set among them.
  s: of compilation.
  collectives: there must be all-reduces alone. The command says where another is, and ends with status 1.

The formulations of grouped convolutions are our rule, XLA's own (lax), and dense convolutions throughout: compared,
they are the grounds of `tpu_rule` in `moonshine_jax/ops/grouped_conv.py`. A program that two of them share is compiled
once. Compiling WRN-40-2 takes about two minutes of a core; the JSON is written after each network.
"""

import argparse
import contextlib
import importlib.util
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.experimental import topologies

from benchmarks.command import make_parser, write_json
from benchmarks.hlo import COLLECTIVES
from benchmarks.lowering import DescribedReplicas, describe_steps
from moonshine_jax.models.wide_resnet import Architecture
from moonshine_jax.ops import grouped_conv
from moonshine_jax.ops.formulations import LAX, ConvSpec, Formulation
from moonshine_jax.ops.merged_conv import merged

# What libtpu would otherwise ask of Google Cloud and of the machine's other processes, as if it were to use a TPU.
LIBTPU_VARIABLES = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}


def dense_rule(x_shape: Sequence[int], kernel_shape: Sequence[int], conv: ConvSpec) -> Formulation:
  """Chooses one dense block-diagonal convolution for every grouped one, and for its gradients."""
  del x_shape, kernel_shape
  return LAX if conv.feature_group_count == 1 else merged(1)


FORMULATIONS = {'rule': grouped_conv.tpu_rule, 'lax': grouped_conv.lax_rule, 'dense': dense_rule}


def main(arguments: list[str] | None = None) -> None:
  """Compiles both steps of every network and prints the estimates; exits with 1 for a collective but all-reduce."""
  parser = make_parser(__doc__, repeats=None, dtype='bfloat16')
  parser.add_argument(
    '--formulations',
    nargs='+',
    default=['rule'],
    choices=FORMULATIONS,
    help="of grouped convolutions: our rule (default), XLA's own, dense ones",
  )
  parser.add_argument('--batch', type=int, default=128, help='images in a step, over all devices (default: 128)')
  parser.add_argument('--topology', default='v5e:2x2', help='as the compiler names it (default: v5e:2x2)')
  flags = parser.parse_args(arguments)
  replicas = DescribedReplicas(find_devices(parser, flags.topology))
  if flags.batch < 1 or flags.batch % len(replicas):
    parser.error(f'--batch={flags.batch}: expected a multiple of the {len(replicas)} devices')

  device = f'{len(replicas)} {replicas.devices[0].device_kind}'
  print(f'{device}, {flags.dtype}, batch {flags.batch}; for one step on one device')
  print_header()
  rows = []
  for architecture in flags.networks:
    for row in estimate_network(architecture, flags, replicas):
      rows.append(row)
      print_row(row)
    write_json(flags.json, flags, rows, device=device)
  foreign = [row for row in rows for step in ('train', 'evaluation') if set(row[step]['collectives']) - {'all-reduce'}]
  for row in foreign:
    print(f'{row["network"]}, {row["formulation"]}: expected all-reduces alone', file=sys.stderr)
  sys.exit(1 if foreign else 0)


def find_devices(parser: argparse.ArgumentParser, topology: str) -> Sequence[Any]:
  """Describes the devices of a topology, which the machine need not have; ends the command without a compiler."""
  if importlib.util.find_spec('libtpu') is None:
    parser.error('libtpu, the compiler for TPUs, is not installed: expected it as launch/setup.sh tpu installs it')
  jax.config.update('jax_platforms', 'cpu')  # for the process itself: a TPU that the machine has stays free
  os.environ.update(LIBTPU_VARIABLES)
  try:
    return topologies.get_topology_desc(platform='tpu', topology_name=topology).devices
  except jax.errors.JaxRuntimeError as error:
    parser.error(f'--topology={topology}: {str(error).splitlines()[0]}: expected one as v5e:2x2')


def estimate_network(
  architecture: Architecture, flags: argparse.Namespace, replicas: DescribedReplicas
) -> Iterator[dict]:
  """Yields a row of a network for each formulation of its grouped convolutions."""
  estimates = {}  # by program

  def estimate(lower):
    lowered = lower()
    program = lowered.as_text()
    if program not in estimates:
      estimates[program] = compile_and_analyse(lowered)
    return estimates[program]

  for name in flags.formulations:
    with tpu_rule_replaced(FORMULATIONS[name]):
      train, evaluation = map(estimate, describe_steps(architecture, flags, replicas))
    yield {'network': str(architecture), 'formulation': name, 'train': train, 'evaluation': evaluation}


@contextlib.contextmanager
def tpu_rule_replaced(rule: Callable) -> Iterator[None]:
  """Replaces the rule for grouped convolutions on a TPU within a `with` block, and forgets what JAX traced before."""
  project_rule = grouped_conv.RULES['tpu']
  grouped_conv.RULES['tpu'] = rule
  jax.clear_caches()
  try:
    yield
  finally:
    grouped_conv.RULES['tpu'] = project_rule
    jax.clear_caches()


def compile_and_analyse(lowered: jax.stages.Lowered) -> dict:
  """Compiles a program, and returns XLA's estimates, its collectives and the seconds of compilation."""
  start = time.perf_counter()
  compiled = lowered.compile()
  seconds = time.perf_counter() - start
  hlo, memory = compiled.as_text(), compiled.memory_analysis()
  return {
    'cycles': estimated_cycles(hlo),
    'bytes_moved': compiled.cost_analysis()['bytes accessed'],
    'bytes_held': (
      memory.argument_size_in_bytes
      + memory.output_size_in_bytes
      - memory.alias_size_in_bytes
      + memory.temp_size_in_bytes
    ),
    'collectives': count_collectives(hlo),
    'compile_seconds': round(seconds, 1),
  }


def estimated_cycles(hlo: str) -> int:
  """Sums the estimated cycles of a compiled program; a loop counts once, as in XLA's count of the bytes."""
  return sum(int(cycles) for cycles in re.findall(r'"estimated_cycles":"(\d+)"', hlo))


def count_collectives(hlo: str) -> dict[str, int]:
  """Counts the collectives of a compiled program by kind; an asynchronous one counts where it starts."""
  return dict(Counter(re.findall(rf'^[^"\n]* ({"|".join(COLLECTIVES)})(?:-start)?\(', hlo, re.MULTILINE)))


def print_header() -> None:
  """Prints the head of the table."""
  print(
    f'{"":<32}{"train step":^52}{"evaluation step":^52}\n{"network":<20} {"formulation":<11}'
    + 2 * f'{"kcycles":>9} {"MB moved":>9} {"MB held":>8} {"s":>6}  {"collectives":<16}',
    flush=True,
  )


def print_row(row: dict) -> None:
  """Prints the estimates for both steps of a network in one formulation."""
  print(
    f'{row["network"]:<20} {row["formulation"]:<11}'
    + ''.join(
      f'{step["cycles"] / 1e3:>9.1f} {step["bytes_moved"] / 1e6:>9.1f} {step["bytes_held"] / 1e6:>8.1f} '
      f'{step["compile_seconds"]:>6.1f}  '
      f'{", ".join(f"{count} {kind}" for kind, count in step["collectives"].items()):<16}'
      for step in (row['train'], row['evaluation'])
    ),
    flush=True,
  )


if __name__ == '__main__':
  main()
