"""Measures every formulation of the grouped convolution, and prints the rule that follows.

  python -m benchmarks.grouped_conv --json=grouped_conv.json

For every shape of WRN-40-2 and every number of groups, the forward pass, the gradient of the input and the gradient
of the weights are timed apart, all formulations in turns, and the medians printed: XLA's own, the fastest, and what
the rule of `moonshine_jax/ops/grouped_conv.py` chooses. The last table has, for each number of channels in a group,
the slowdown of each formulation against the fastest in each shape, as geometric mean: the rule should be its minimum.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax

from benchmarks.command import write_json
from moonshine_jax.cost.timing import time_compiled
from moonshine_jax.ops import grouped_conv
from moonshine_jax.ops.formulations import LAX, MATMUL, ConvSpec, Formulation
from moonshine_jax.ops.merged_conv import merged
from moonshine_jax.ops.shifted_conv import SHIFTS

PARTS = ('forward', 'input_gradient', 'weight_gradient')

# (channels, image size, stride): the grouped 3x3 convolutions of WRN-40-2 in G and BG(2) blocks, those of BG(4) after.
SHAPES = {
  'G': ((32, 32, 1), (64, 16, 1), (128, 8, 1), (32, 32, 2), (64, 16, 2), (16, 32, 1)),
  'BG': ((16, 32, 1), (32, 16, 1), (64, 8, 1), (8, 32, 1)),
}
MOST_PRODUCTS = 72  # for each value of the sum over shifts: with more, its compilation takes seconds


def main() -> None:
  """Measures all cases and prints them and the rule."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--batch', type=int, default=64, help='images (default: 64)')
  parser.add_argument('--dtype', default='float32', help='float32 (default) or bfloat16')
  parser.add_argument('--shapes', nargs='+', default=list(SHAPES), choices=list(SHAPES), help='which networks')
  parser.add_argument('--repeats', type=int, default=7, help='times that each formulation is timed (default: 7)')
  parser.add_argument('--json', help='file to write the measurements to')
  flags = parser.parse_args()

  rows = []
  shapes = dict.fromkeys(shape for name in flags.shapes for shape in SHAPES[name])
  print(
    f'{"C":>4} {"HxW":>6} {"stride":>6} {"groups":>6} {"width":>5}  {"part":<15} '
    f'{"lax ms":>9} {"fastest ms":>20} {"rule ms":>20} {"lax / rule":>10}'
  )
  for case in list_cases(shapes):
    for row in measure_case(case, flags):
      rows.append(row)
      print_row(row)
  print_rule(rows)
  write_json(flags.json, flags, rows)


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


def candidates(kernel_shape: tuple[int, int, int, int], conv: ConvSpec) -> dict[str, Formulation]:
  """Returns all formulations that can compute a convolution, by name."""
  height, width, inputs, _ = kernel_shape
  groups = conv.feature_group_count
  named = {'lax': LAX}
  if groups > 1 and height * width * inputs <= MOST_PRODUCTS:
    named['shifts'] = SHIFTS
  named |= {f'merged({blocks})': merged(blocks) for blocks in range(1, min(groups, 16) + 1) if groups % blocks == 0}
  if (height, width, groups) == (1, 1, 1) and conv.padding == ((0, 0), (0, 0)):
    named['matmul'] = MATMUL
  return named


def measure_case(case: Case, flags: argparse.Namespace) -> Iterator[dict]:
  """Yields a row for each of PARTS of a convolution, with the milliseconds of every formulation."""
  channels, size, kernel_size, conv = case
  x_shape = (flags.batch, size, size, channels)
  kernel_shape = (kernel_size, kernel_size, channels // conv.feature_group_count, channels)
  keys = jax.random.split(jax.random.key(0), 3)
  x, kernel = (
    jax.random.normal(key, shape, flags.dtype) for key, shape in zip(keys, (x_shape, kernel_shape), strict=False)
  )
  dy = jax.random.normal(keys[2], jax.eval_shape(lambda: LAX.forward(x, kernel, conv)).shape, flags.dtype)
  arguments = {
    'forward': (x, kernel, ()),
    'input_gradient': (dy, kernel, (x_shape,)),
    'weight_gradient': (x, dy, (kernel_shape,)),
  }
  formulations = candidates(kernel_shape, conv)
  chosen = grouped_conv.RULES.get(jax.default_backend(), grouped_conv.lax_rule)(x_shape, kernel_shape, conv)

  for part in PARTS:
    first, second, static = arguments[part]
    functions = {name: _bind(getattr(form, part), *static, conv) for name, form in formulations.items()}
    times = time_compiled(functions, (first, second), flags.repeats)
    rule = next(name for name, form in formulations.items() if getattr(form, part) is getattr(chosen, part))
    yield {
      'channels': channels,
      'outputs': channels,
      'size': size,
      'kernel_size': kernel_size,
      'stride': conv.window_strides[0],
      'groups': conv.feature_group_count,
      'part': part,
      'rule': rule,
      'ms': {name: round(median, 4) for name, (median, _) in times.items()},
      'ms_min': {name: round(least, 4) for name, (_, least) in times.items()},
    }


def _bind(function: Callable, *static: Any) -> Callable:
  """Returns a function of the two array operands alone."""
  return lambda first, second: function(first, second, *static)


def print_row(row: dict) -> None:
  """Prints a row: XLA's formulation, the fastest, and the one that the rule chooses."""
  ms = row['ms']
  fastest = min(ms, key=ms.get)
  size, width = f'{row["size"]}x{row["size"]}', row['channels'] // row['groups']
  print(
    f'{row["channels"]:>4} {size:>6} {row["stride"]:>6} {row["groups"]:>6} {width:>5}  '
    f'{row["part"] + " " + str(row["kernel_size"]):<17} {ms["lax"]:>7.2f} {fastest:>12} {ms[fastest]:>7.2f} '
    f'{row["rule"]:>12} {ms[row["rule"]]:>7.2f} {ms["lax"] / ms[row["rule"]]:>10.2f}',
    flush=True,
  )


def print_rule(rows: list[dict]) -> None:
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
