"""Measures every formulation of the grouped convolution, and prints the rule that follows.

  python -m benchmarks.grouped_conv --json=grouped_conv.json

  python -m benchmarks.grouped_conv --batch=128 --dtype=bfloat16 --seconds=120 --json=grouped_conv.json

For every shape of WRN-40-2 and every number of groups, the forward pass, the gradient of the input and the gradient
of the weights are timed apart, all formulations in turns, and the medians printed: XLA's own, the fastest, and what
the rule of `moonshine_jax/ops/grouped_conv.py` chooses. The last table has, for each number of channels in a group,
the slowdown of each formulation against the fastest in each shape, as geometric mean. At the end stands the rule that
follows, as code for that module: for each number of channels in a group the policy of least slowdown.

The cases come in the order of their worth: the groups of 8 channels and of 1 first, strides of 1 before those of 2, and
dense convolutions last. With --seconds it stops in time, with the rule for what it has measured.

An accelerator runs behind the host, and a call of it takes longer than a small convolution. So each call there is of
several convolutions of different operands, and several calls are on their way.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.command import add_json, first_line, write_json
from benchmarks.grouped_rule import PARTS, rule_code
from moonshine_jax.cost.timing import time_compiled
from moonshine_jax.ops import grouped_conv
from moonshine_jax.ops.formulations import LAX, MATMUL, ConvSpec, Formulation
from moonshine_jax.ops.merged_conv import merged
from moonshine_jax.ops.shifted_conv import SHIFTS
from moonshine_jax.runtime.cpu import available_cores

# (channels, image size, stride): the grouped 3x3 convolutions of WRN-40-2 in G and BG(2) blocks, those of BG(4) after.
SHAPES = {
  'G': ((32, 32, 1), (64, 16, 1), (128, 8, 1), (32, 32, 2), (64, 16, 2), (16, 32, 1)),
  'BG': ((16, 32, 1), (32, 16, 1), (64, 8, 1), (8, 32, 1)),
}
WIDTHS = (8, 1, 16, 2, 4)  # channels in a group, those of most worth first; then all others

PLATFORMS = {'cpu': 'cpu', 'gpu': 'cuda', 'tpu': 'tpu'}  # for which a backend lowers, as RULES has them

# By backend: products for each value of the sum over shifts, with more of which its compilation takes seconds, or it
# can be no rival; and channels in a block that are worth a matrix unit.
LIMITS = {'cpu': (72, 1), 'gpu': (18, 32), 'tpu': (18, 32)}
# By backend: convolutions in a call, and calls that are timed together.
CALLS = {'cpu': (1, 1), 'gpu': (8, 20), 'tpu': (8, 20)}


def main(arguments: list[str] | None = None) -> None:
  """Measures all cases, or those that fit into the time, and prints them and the rule."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--batch', type=int, default=64, help='images (default: 64)')
  parser.add_argument('--dtype', default='float32', help='float32 (default) or bfloat16')
  parser.add_argument('--shapes', nargs='+', default=list(SHAPES), choices=list(SHAPES), help='which networks')
  parser.add_argument('--repeats', type=int, default=7, help='times that each formulation is timed (default: 7)')
  parser.add_argument('--seconds', type=float, default=math.inf, help='after which no case is begun (default: none)')
  add_json(parser)
  flags = parser.parse_args(arguments)

  rows = []
  shapes = dict.fromkeys(shape for name in flags.shapes for shape in SHAPES[name])
  print(
    f'{"C":>4} {"HxW":>6} {"stride":>6} {"groups":>6} {"width":>5}  {"part":<15} '
    f'{"lax ms":>9} {"fastest ms":>20} {"rule ms":>20} {"lax / rule":>10}'
  )
  start, cases = time.monotonic(), sorted(list_cases(shapes), key=worth)
  for done, case in enumerate(cases):
    if time.monotonic() > start + flags.seconds:
      print(f'{done} of {len(cases)} cases are measured in {flags.seconds:g} s')
      break
    for row in measure_case(case, flags):
      rows.append(row)
      print_row(row)
    write_json(flags.json, flags, rows)
  print_slowdowns(rows)
  measured = f'{jax.devices()[0].device_kind}, batch {flags.batch}, {flags.dtype}, jax {jax.__version__}'
  print('\n' + rule_code(rows, PLATFORMS[jax.default_backend()], measured))


class Case(NamedTuple):
  """A convolution that keeps the number of channels.

  Attributes:
    channels: of the input and of the output.
    size: pixels on a side of the input.
    kernel_size: 1, 2 or 3.
    conv: strides, padding, dilation and groups.
  """

  channels: int
  size: int
  kernel_size: int
  conv: ConvSpec


def list_cases(shapes: Iterable[tuple[int, int, int]]) -> Iterator[Case]:
  """Yields 3x3 convolutions in every number of groups, and dense 1x1 and dilated 2x2 ones, for each shape."""
  for channels, size, stride in shapes:
    for groups in (2**i for i in range(int(math.log2(channels)) + 1)):
      yield Case(channels, size, 3, ConvSpec((stride, stride), ((1, 1), (1, 1)), (1, 1), groups))
    yield Case(channels, size, 1, ConvSpec((stride, stride), ((0, 0), (0, 0)), (1, 1), 1))
    yield Case(channels, size, 2, ConvSpec((stride, stride), ((1, 1), (1, 1)), (2, 2), 1))


def worth(case: Case) -> tuple[int, int, int]:
  """Returns the place of a case among others: by its groups, its stride and its size."""
  groups, stride = case.conv.feature_group_count, case.conv.window_strides[0]
  width = case.channels // groups
  place = WIDTHS.index(width) if width in WIDTHS else len(WIDTHS) + width
  return (place if groups > 1 else 2**20, stride, -case.size)


def candidates(kernel_shape: tuple[int, int, int, int], conv: ConvSpec) -> dict[str, Formulation]:
  """Returns all formulations that can compute a convolution, by name."""
  height, width, inputs, outputs = kernel_shape
  groups = conv.feature_group_count
  most_products, least_channels = LIMITS[jax.default_backend()]
  named = {'lax': LAX}
  if groups > 1 and height * width * inputs <= most_products:
    named['shifts'] = SHIFTS
  for blocks in range(1, min(groups, 16) + 1):
    if groups % blocks == 0 and (blocks == 1 or outputs // blocks >= least_channels):
      named[f'merged({blocks})'] = merged(blocks)
  if (height, width, groups) == (1, 1, 1) and conv.padding == ((0, 0), (0, 0)):
    named['matmul'] = MATMUL
  return named


def measure_case(case: Case, flags: argparse.Namespace) -> Iterator[dict]:
  """Yields a row for each of PARTS of a convolution, with the milliseconds of every formulation."""
  channels, size, kernel_size, conv = case
  x_shape = (flags.batch, size, size, channels)
  kernel_shape = (kernel_size, kernel_size, channels // conv.feature_group_count, channels)
  copies, calls = CALLS[jax.default_backend()]
  described = [jax.ShapeDtypeStruct(shape, jnp.dtype(flags.dtype)) for shape in (x_shape, kernel_shape)]
  out_shape = jax.eval_shape(lambda x, kernel: LAX.forward(x, kernel, conv), *described).shape
  keys = jax.random.split(jax.random.key(0), 3 * copies).reshape(3, copies)
  x, kernel, dy = (
    [jax.random.normal(key, shape, flags.dtype) for key in row]
    for row, shape in zip(keys, (x_shape, kernel_shape, out_shape), strict=True)
  )
  arguments = {
    'forward': ((x, kernel), ()),
    'input_gradient': ((dy, kernel), (x_shape,)),
    'weight_gradient': ((x, dy), (kernel_shape,)),
  }
  formulations = candidates(kernel_shape, conv)
  chosen = grouped_conv.RULES.get(PLATFORMS[jax.default_backend()], grouped_conv.lax_rule)(x_shape, kernel_shape, conv)
  if not all(any(getattr(form, part) is getattr(chosen, part) for form in formulations.values()) for part in PARTS):
    formulations['rule'] = chosen

  def compile_part(part, form):
    operands, static = arguments[part]
    return jax.jit(_bind(getattr(form, part), *static, conv)).lower(*operands).compile()

  with ThreadPoolExecutor(available_cores()) as pool:
    compiled = {
      (part, name): pool.submit(compile_part, part, form) for part in PARTS for name, form in formulations.items()
    }
  for part in PARTS:
    functions = {}
    for name in formulations:
      if error := compiled[part, name].exception():  # whatever XLA makes of one: the others go on
        print(f'{case}, {part}, {name}: {first_line(error)}')
      else:
        functions[name] = compiled[part, name].result()
    rule = next(name for name, form in formulations.items() if getattr(form, part) is getattr(chosen, part))
    if not functions.keys() >= {'lax', rule}:
      continue
    times = time_compiled(functions, arguments[part][0], flags.repeats, calls=calls)
    yield {
      'channels': channels,
      'outputs': channels,
      'size': size,
      'kernel_size': kernel_size,
      'stride': conv.window_strides[0],
      'groups': conv.feature_group_count,
      'part': part,
      'rule': rule,
      'ms': {name: round(median / copies, 5) for name, (median, _) in times.items()},
      'ms_min': {name: round(least / copies, 5) for name, (_, least) in times.items()},
    }


def _bind(function: Callable, *static: Any) -> Callable:
  """Returns a function of the two array operands alone, of each a list: one for each of several convolutions."""
  return lambda *operands: [function(first, second, *static) for first, second in zip(*operands, strict=True)]


def print_row(row: dict) -> None:
  """Prints a row: XLA's formulation, the fastest, and the one that the rule chooses."""
  ms = row['ms']
  fastest = min(ms, key=ms.get)
  size, width = f'{row["size"]}x{row["size"]}', row['channels'] // row['groups']
  print(
    f'{row["channels"]:>4} {size:>6} {row["stride"]:>6} {row["groups"]:>6} {width:>5}  '
    f'{row["part"] + " " + str(row["kernel_size"]):<17} {ms["lax"]:>7.3f} {fastest:>12} {ms[fastest]:>7.3f} '
    f'{row["rule"]:>12} {ms[row["rule"]]:>7.3f} {ms["lax"] / ms[row["rule"]]:>10.2f}',
    flush=True,
  )


def print_slowdowns(rows: list[dict]) -> None:
  """Prints how much slower than the fastest each formulation is, by kernel size, channels in a group and part."""
  print('\nslowdown against the fastest formulation, geometric mean over shapes; merged by the channels of a block')
  slowdowns = {}
  for row in rows:
    best = min(row['ms'].values())
    for formulation, ms in row['ms'].items():
      name = formulation
      if formulation.startswith('merged'):
        name = f'merged to {row["channels"] // int(formulation[len("merged(") : -1])}'
      key = (row['kernel_size'], row['channels'] // row['groups'] if row['groups'] > 1 else 'all', row['part'])
      slowdowns.setdefault(key, {}).setdefault(name, []).append(ms / best)
  for (kernel_size, width, part), named in slowdowns.items():
    means = {name: math.exp(sum(map(math.log, values)) / len(values)) for name, values in named.items()}
    line = ', '.join(
      f'{name} {mean:.2f} ({len(named[name])})' for name, mean in sorted(means.items(), key=lambda item: item[1])
    )
    print(f'{kernel_size}x{kernel_size}, {width:>3} in a group, {part:<15}: {line}')


if __name__ == '__main__':
  main()
