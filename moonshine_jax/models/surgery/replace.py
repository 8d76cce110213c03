"""Replacement of the convolutions of any linen module by cheap ones; the module's source stays as it is.

A rule says which convolutions become what; a plan says what a rule does to a network and what it saves. The module
`cheap` has the table of what a notation puts in a convolution's place.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import tabulate

from moonshine_jax.errors import UserError
from moonshine_jax.models.blocks import Block
from moonshine_jax.models.surgery.cheap import Cheap, kxk_convolution
from moonshine_jax.models.surgery.inspection import Inspection, inspect_module
from moonshine_jax.models.surgery.intercept import Unbound
from moonshine_jax.models.surgery.layers import ConvLayer
from moonshine_jax.models.surgery.probe import probe_module

Rule = str | Callable[[ConvLayer], str | None]


@dataclasses.dataclass(frozen=True)
class LayerPlan:
  """What becomes of one convolution.

  Attributes:
    layer: the convolution as it was.
    notation: notation of its replacement, or None where it stays.
    reason: why it stays, or ''.
    parameters, multiply_adds: numbers afterwards, counted as in ConvLayer; the parameters with BN's running statistics.
  """

  layer: ConvLayer
  notation: str | None
  reason: str
  parameters: int
  multiply_adds: int


@dataclasses.dataclass(frozen=True)
class ReplacementPlan:
  """What becomes of a network's convolutions; as a string, a table.

  Attributes:
    student: the network with the replacements.
    layers: one plan for each convolution, in the order in which they run.
    parameters: number of parameters of the whole network, before and after, with BN's running statistics.
    multiply_adds: multiply-adds of its convolutions and fully connected layers, before and after, for one example.
  """

  student: Cheap
  layers: tuple[LayerPlan, ...]
  parameters: tuple[int, int]
  multiply_adds: tuple[int, int]

  def __str__(self) -> str:
    """Returns a table with a line for each convolution and one for the whole network."""
    heading = ['path', 'layer', 'becomes', 'because', 'parameters', 'after', 'multiply-adds', 'after']
    lines = [
      [
        plan.layer.path,
        str(plan.layer),
        plan.notation or 'kept',
        plan.reason,
        f'{plan.layer.parameters:,}',
        f'{plan.parameters:,}',
        f'{plan.layer.multiply_adds:,}',
        f'{plan.multiply_adds:,}',
      ]
      for plan in self.layers
    ]
    total = ['whole network', '', '', '', *(f'{number:,}' for number in (*self.parameters, *self.multiply_adds))]
    alignment = ['left'] * 4 + ['right'] * 4
    return tabulate.tabulate([heading, *lines, total], tablefmt='plain', disable_numparse=True, colalign=alignment)


def cheapen(module: nn.Module, rule: Rule, *args: Any, **kwargs: Any) -> Cheap:
  """Makes a student of a network: the same network, called in the same way, with cheap convolutions.

  Variables of layers that stay keep their paths; `inherit` gives them the teacher's values.

  Args:
    module: any linen module; in `setup` style or compact, its layers shared, scanned (`nn.scan` must carry
      'batch_stats'), recomputed (`nn.remat`) or in lists.
    rule: a notation, for all convolutions but the first, the last if no fully connected layer follows, those of 1x1 and
      those in groups (ConvLayer.stays says which and why); several, separated by commas, one for each of these
      convolutions in the order in which they run, `S` for one that stays; or a function from a ConvLayer to a
      notation, or to None for what is to stay.
    *args: a batch of examples to call it with, and further arguments; arrays may be given as `jax.ShapeDtypeStruct`.
    **kwargs: further arguments of its call.

  Returns:
    The student, to be trained with `mutable=['batch_stats']`; for `pmap`, `student.clone(axis_name=...)`. For
    `jax.jvp` and `jax.jacfwd` of it, `with moonshine_jax.forward_mode():`.

  Raises:
    UserError: for a notation that is none, where nothing can be replaced, and where several notations do not fit.
  """
  replacement_plan = plan(module, rule, *args, **kwargs)
  if not replacement_plan.student.replacements:
    reasons = '; '.join(f'{layer_plan.layer.path}: {layer_plan.reason}' for layer_plan in replacement_plan.layers[:5])
    more = f'; and {len(replacement_plan.layers) - 5} more' if len(replacement_plan.layers) > 5 else ''
    raise UserError(
      f'{type(module).__name__}: nothing in it is replaced: '
      + (f'{reasons}{more}' if replacement_plan.layers else 'no convolution in it')
    )
  return replacement_plan.student


def plan(module: nn.Module, rule: Rule, *args: Any, **kwargs: Any) -> ReplacementPlan:
  """Plans what `cheapen` does with every convolution, and counts what it saves.

  Args:
    module: any linen module, as for `cheapen`.
    rule: a notation, several, or a function from a ConvLayer to a notation or None, as for `cheapen`.
    *args: a batch of examples to call it with, and further arguments; arrays may be given as `jax.ShapeDtypeStruct`.
    **kwargs: further arguments of its call.

  Raises:
    UserError: for a notation that is none, and where several notations do not fit.
  """
  before = probe_module(inspect_module(module, *args, **kwargs), module, *args, **kwargs)
  decisions = _decide_all(before.layers, rule)
  replacements = tuple(
    (layer.path, str(block)) for layer, (block, _) in zip(before.layers, decisions, strict=True) if block
  )
  student = Cheap(Unbound(module), replacements)
  after = inspect_module(student, *args, **kwargs)
  for path, notation in replacements:
    _check_replacement(path, notation, before, after)
  layer_plans = tuple(
    LayerPlan(
      layer,
      str(block) if block else None,
      reason,
      after.parameters(layer.path) if block else layer.parameters,
      _multiply_adds_at(after, layer.path) if block else layer.multiply_adds,
    )
    for layer, (block, reason) in zip(before.layers, decisions, strict=True)
  )
  return ReplacementPlan(
    student,
    layer_plans,
    parameters=(before.parameters(), after.parameters()),
    multiply_adds=(before.multiply_adds, after.multiply_adds),
  )


def replaceable(module: nn.Module, *args: Any, **kwargs: Any) -> dict[ConvLayer, bool]:
  """Returns the convolutions that may be replaced, of which several notations of a rule have one each.

  Args are those of `plan`.

  Returns:
    The convolutions in the order in which they run, each with whether it has one output: it runs once, and is in no
    `nn.scan`.
  """
  inspection = probe_module(inspect_module(module, *args, **kwargs), module, *args, **kwargs)
  outputs = {call.path: call.can_be_taken for call in inspection.calls}
  runs = Counter(call.path for call in inspection.calls)
  return {
    layer: outputs[layer.path] and runs[layer.path] == 1
    for layer in inspection.layers
    if not (layer.stays or _obstacle_to_any(layer))
  }


def fits(layer: ConvLayer, notation: str) -> bool:
  """Whether a block can take the place of a convolution."""
  return not _obstacle(layer, Block.parse(notation))


def inherit(variables: Mapping[str, Any], teacher_variables: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a student's variables with the teacher's values wherever the teacher has the same path and shape.

  Every array keeps the dtype that it has in the student: parameters are float32 where the networks say nothing else, be
  the teacher's values bfloat16 or float64.
  """
  teacher = {_path_of_dicts(keys): leaf for keys, leaf in jax.tree.leaves_with_path(teacher_variables)}

  def inherited(keys: jax.tree_util.KeyPath, value: Any) -> Any:
    taught = teacher.get(_path_of_dicts(keys))
    if taught is None or jnp.shape(taught) != jnp.shape(value):
      return value
    return taught if taught.dtype == value.dtype else taught.astype(value.dtype)

  return jax.tree.map_with_path(inherited, dict(variables))


def _path_of_dicts(keys: jax.tree_util.KeyPath) -> tuple[Any, ...]:
  """Returns a path without what Flax wraps around arrays, as nn.Partitioned, which only one of two trees may have."""
  return tuple(key.key for key in keys if isinstance(key, jax.tree_util.DictKey))


def _decide(layer: ConvLayer, rule: Rule) -> tuple[Block | None, str]:
  """Returns the block that replaces a layer and '', or None and why the layer stays."""
  notation = rule if isinstance(rule, str) else rule(layer)
  if notation is None:
    return None, 'the rule says so'
  try:
    block = Block.parse(notation)
  except ValueError as error:
    raise UserError(str(error) if isinstance(rule, str) else f'{layer.path}: {error}') from error
  reason = _obstacle(layer, block) or (layer.stays if isinstance(rule, str) else '')
  return (None, reason) if reason else (block, '')


def _decide_all(layers: Sequence[ConvLayer], rule: Rule) -> list[tuple[Block | None, str]]:
  """Returns for each layer what `_decide` does; of several notations, each is for one that may be replaced."""
  try:
    blocks = Block.parse_list(rule) if isinstance(rule, str) else ()
  except ValueError as error:
    raise UserError(str(error)) from error
  if len(blocks) <= 1:
    return [_decide(layer, rule) for layer in layers]
  places = [layer.path for layer in layers if not (layer.stays or _obstacle_to_any(layer))]
  if len(blocks) != len(places):
    raise UserError(f'{len(blocks)} notations: expected 1, or {len(places)}: {", ".join(places) or "none"}')
  by_path = dict(zip(places, blocks, strict=True))
  decisions = []
  for layer in layers:
    block = by_path.get(layer.path)
    reason = _obstacle(layer, block) if block else layer.stays or _obstacle_to_any(layer)
    if block and block.kind != 'S' and reason:
      raise UserError(f'{layer.path}: {block} cannot take its place: {reason}')
    decisions.append((None, reason) if reason else (block, ''))
  return decisions


def _obstacle_to_any(layer: ConvLayer) -> str:
  """Returns why no block can take a layer's place, or ''."""
  obstacles = {
    f'it is a {layer.kind}': layer.kind != 'convolution',
    layer.does_more: bool(layer.does_more),
    f'it computes in {layer.dtype}': not jnp.issubdtype(layer.dtype, jnp.floating),
    'its weights are masked': layer.masked,
  }
  return next((obstacle for obstacle, holds in obstacles.items() if holds), '')


def _obstacle(layer: ConvLayer, block: Block) -> str:
  """Returns why a block cannot take a layer's place, or ''."""
  is_two_taps = block.kind == 'S-2x2'
  obstacles = {
    _obstacle_to_any(layer): bool(_obstacle_to_any(layer)),
    'S is what it is': block.kind == 'S',
    'no axis has more than 2 taps': is_two_taps and max(layer.kernel_size) <= 2,
    "the transform around it keeps no 'batch_stats' in training": not is_two_taps and not layer.has_batch_stats,
  }
  if any(obstacles.values()) or is_two_taps:
    return next((obstacle for obstacle, holds in obstacles.items() if holds), '')
  try:
    kxk_convolution(block, layer.in_features, layer.out_features)
  except ValueError as error:
    return str(error).removeprefix(f'block {block}: ')
  return ''


def _check_replacement(path: str, notation: str, before: Inspection, after: Inspection) -> None:
  """Raises UserError where a replacement does not run, or gives the network another array than the original did."""
  if before.parameters_at(path) == after.parameters_at(path):
    raise UserError(f'{path}: {notation} does not reach it: expected a convolution that runs when the network does')
  was, now = (
    [(call.output_shape, call.output_dtype) for call in inspection.calls if call.path == path]
    for inspection in (before, after)
  )
  for old, new in zip(was, now, strict=False):
    if old != new:
      raise UserError(
        f'{path}: {notation} returns {new[1]} {new[0]} where the original returns {old[1]} {old[0]}: expected a '
        'convolution with the same output; a rule that gives None leaves it as it is'
      )


def _multiply_adds_at(inspection: Inspection, path: str) -> int:
  return sum(call.multiply_adds for call in inspection.calls if f'{call.path}/'.startswith(f'{path}/'))
