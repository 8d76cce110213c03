"""Writes the rule for grouped convolutions that follows from what `benchmarks.grouped_conv` measured, as code.

A rule of `moonshine_jax/ops/grouped_conv.py` chooses by the kernel, the channels in a group and the part (forward,
input gradient, weight gradient). For each of these the policies are compared over all shapes that were measured: XLA's
own operation, the sum over shifts, the matrix product, and blocks of at least so many channels.
"""

import math
from collections.abc import Iterator

from moonshine_jax.ops.merged_conv import number_of_blocks

PARTS = ('forward', 'input_gradient', 'weight_gradient')
LEAST = (16, 32, 64, 128)  # channels of a block
GAIN = 1.03  # by which a policy must be faster than XLA's own operation, to be chosen: less is noise

Kernel = tuple[int, int]  # (size, channels in a group; 0 for one group)


def rule_code(rows: list[dict], platform: str, measured: str) -> str:
  """Returns the code of a platform's rule, to be pasted into `moonshine_jax/ops/grouped_conv.py`.

  Args:
    rows: as `benchmarks.grouped_conv` writes them.
    platform: as JAX names it in lowering: 'cpu', 'cuda', 'tpu'.
    measured: device, batch and versions, for the docstring.
  """
  by_kernel: dict[Kernel, dict[str, list[dict]]] = {}
  for row in rows:
    kernel = (row['kernel_size'], row['channels'] // row['groups'] if row['groups'] > 1 else 0)
    by_kernel.setdefault(kernel, {part: [] for part in PARTS})[row['part']].append(row)
  table, branches = [], []
  for kernel, parts in by_kernel.items():
    chosen = {part: choose(parts[part]) for part in PARTS if parts[part]}
    if len(chosen) < len(PARTS):
      continue  # stopped between the parts of a case
    cells = [f'{total(parts[part], "lax"):.3f} / {total(parts[part], chosen[part]):.3f}' for part in PARTS]
    table.append(f'    {words(kernel):<26}{len(parts[PARTS[0]]):>3}  ' + ''.join(f'{cell:>18}' for cell in cells))
    if set(chosen.values()) != {'lax'}:
      branches += [f'  if {condition(kernel)}:', f'    return {formulation(chosen)}']
  return '\n'.join(code_lines(platform, measured, table, branches, max((row['channels'] for row in rows), default=0)))


def code_lines(
  platform: str, measured: str, table: list[str], branches: list[str], most_channels: int
) -> Iterator[str]:
  """Yields the lines of the rule: signature, docstring with the table, and the branches."""
  yield f'def {platform}_rule(x_shape: Shape, kernel_shape: Shape, conv: ConvSpec) -> Formulation:'
  yield f'  """Returns the formulation for the platform {platform}, as measured.'
  yield ''
  yield "  Milliseconds of XLA's operation / of this rule, sums over shapes, medians by `benchmarks/grouped_conv.py`;"
  yield f'  {measured}.'
  yield ''
  yield f'    {"":<20}{"shapes":>9}  ' + ''.join(f'{part.replace("_", " "):>18}' for part in PARTS)
  yield from table
  yield ''
  yield "  What is not measured is left to XLA's operation."
  yield '  """'
  if not branches:
    yield '  del x_shape, kernel_shape, conv'
    yield '  return LAX'
    return
  yield '  (height, width, inputs, _), groups = kernel_shape, conv.feature_group_count'
  yield f'  if x_shape[3] > {most_channels}:'
  yield '    return LAX'
  if any('blocks_of(' in line for line in branches):
    yield ''
    yield '  def blocks_of(least: int) -> Formulation:'
    yield '    return merged(number_of_blocks(x_shape[3], groups, least))'
    yield ''
  yield from branches
  yield '  return LAX'
  yield ''
  yield ''
  yield f"# RULES = {{..., '{platform}': {platform}_rule}}"


def policies(row: dict) -> dict[str, str]:
  """Returns the name of the formulation that each policy takes in a row, by the policy; those that were measured."""
  named = {name: name for name in ('lax', 'shifts', 'matmul')}
  named |= {f'blocks_of({n})': f'merged({number_of_blocks(row["channels"], row["groups"], n)})' for n in LEAST}
  return {policy: name for policy, name in named.items() if name in row['ms']}


def choose(rows: list[dict]) -> str:
  """Returns the policy of least slowdown, as geometric mean over rows; XLA's own where none gains more than GAIN."""
  slowdowns = {
    policy: math.exp(sum(math.log(time_of(row, policy) / min(row['ms'].values())) for row in rows) / len(rows))
    for policy in policies(rows[0])
    if all(policy in policies(row) for row in rows)
  }
  best = min(slowdowns, key=lambda policy: slowdowns[policy])
  return best if slowdowns['lax'] > GAIN * slowdowns[best] else 'lax'


def time_of(row: dict, policy: str) -> float:
  """Returns the milliseconds of a policy in a row."""
  return row['ms'][policies(row)[policy]]


def total(rows: list[dict], policy: str) -> float:
  """Returns the milliseconds of a policy in all rows together."""
  return sum(time_of(row, policy) for row in rows)


def words(kernel: Kernel) -> str:
  """Names a kind of kernel."""
  size, channels = kernel
  return f'{size}x{size}, ' + (f'{channels} in a group' if channels else 'dense')


def condition(kernel: Kernel) -> str:
  """Returns the condition under which a convolution has such a kernel."""
  size, channels = kernel
  if channels:
    return f'groups > 1 and (height, width, inputs) == ({size}, {size}, {channels})'
  padding = ' and conv.padding == ((0, 0), (0, 0))' if size == 1 else ''
  return f'(height, width, groups) == ({size}, {size}, 1){padding}'


def formulation(chosen: dict[str, str]) -> str:
  """Returns the expression of a formulation with the policy that is chosen for each part."""
  names = {part: policy if '(' in policy else policy.upper() for part, policy in chosen.items()}
  if len(set(names.values())) == 1:
    return names[PARTS[0]]
  return f'Formulation({", ".join(f"{names[part]}.{part}" for part in PARTS)})'
