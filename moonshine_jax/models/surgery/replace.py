"""Replacement of the convolutions of any linen module by cheap ones; the module's source stays as it is.

A convolution of kernel k becomes what a unit of the paper's block (Table 1) has in its place:

| notation  | in place of a k convolution of C to N channels                            | below its path         |
|-----------|---------------------------------------------------------------------------|------------------------|
| `G(g)`    | k in g groups (C to C), BN, ReLU, 1x1 (C to N)                            | grouped, bn, pointwise |
| `B(b)`    | 1x1 (C to M = N/b), BN, ReLU, k (M to M), BN, ReLU, 1x1 (M to N)          | contract, bn1, middle, |
| `BG(b,g)` | as `B(b)`, the k in g groups                                              |   bn2, expand          |
| `S-2x2`   | 2 taps for k, dilated to the same extent, along each axis of more than 2  | kernel, bias           |

The k convolution keeps strides, padding and dilations, the last convolution the bias. `N` and `M` in a number of groups
are the channels that the grouped convolution sees, in this table C and M. A `B` takes the place of one convolution in
this module, and of two in a residual block of `models.blocks`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import tabulate

from moonshine_jax.errors import UserError
from moonshine_jax.models.blocks import BatchNormReLU, Block, Convolution, conv_init
from moonshine_jax.models.surgery.inspection import Inspection, inspect_module
from moonshine_jax.models.surgery.intercept import Unbound, adapt, with_attributes
from moonshine_jax.models.surgery.layers import ConvLayer

Rule = str | Callable[[ConvLayer], str | None]


class Cheap(nn.Module):
  """A network with some of its convolutions replaced, called as the original is called, by `__call__` alone.

  The BN of the replacements uses and updates the statistics of the batch where 'batch_stats' is mutable, and the
  running statistics elsewhere.

  Attributes:
    original: the network.
    replacements: (path, notation) of each convolution that is replaced.
    axis_name: the pmapped axis over which all BN takes its batch statistics, or None; see `intercept.adapt`.
  """

  original: Unbound
  replacements: tuple[tuple[str, str], ...]
  axis_name: str | None = None

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """Calls the network with its replacements; arguments and result are the original's."""
    blocks = {path: Block.parse(notation) for path, notation in self.replacements}

    def substitute(call, args, kwargs, context):
      module = context.module
      block = blocks.get('/'.join(module.path[len(self.path) :])) if isinstance(module, nn.Conv) else None
      if block is None or context.method_name != '__call__':
        return call(*args, **kwargs)
      if block.kind == 'S-2x2':
        with with_attributes(module, **_two_taps(module)):
          return call(*args, **kwargs)
      return _run_replacement(block, module, *args, **kwargs)

    original = self.original.bind(self, f'{self.replacements} {self.axis_name}')
    with nn.intercept_methods(adapt(self.axis_name)), nn.intercept_methods(substitute):
      return original(*args, **kwargs)


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
      those in groups (ConvLayer.stays says which and why); or a function from a ConvLayer to a notation, or to None
      for what is to stay.
    *args: a batch of examples to call it with, and further arguments; arrays may be given as `jax.ShapeDtypeStruct`.
    **kwargs: further arguments of its call.

  Returns:
    The student, to be trained with `mutable=['batch_stats']`; for `pmap`, `student.clone(axis_name=...)`.

  Raises:
    UserError: for a notation that is none, and where nothing can be replaced.
  """
  plan = plan_replacements(module, rule, *args, **kwargs)
  if not plan.student.replacements:
    reasons = '; '.join(f'{layer_plan.layer.path}: {layer_plan.reason}' for layer_plan in plan.layers[:5])
    more = f'; and {len(plan.layers) - 5} more' if len(plan.layers) > 5 else ''
    raise UserError(
      f'{type(module).__name__}: nothing in it is replaced: '
      + (f'{reasons}{more}' if plan.layers else 'no convolution in it')
    )
  return plan.student


def plan_replacements(module: nn.Module, rule: Rule, *args: Any, **kwargs: Any) -> ReplacementPlan:
  """Plans what `cheapen` does with every convolution, and counts what it saves.

  Args:
    module: any linen module, as for `cheapen`.
    rule: a notation, or a function from a ConvLayer to a notation or None, as for `cheapen`.
    *args: a batch of examples to call it with, and further arguments; arrays may be given as `jax.ShapeDtypeStruct`.
    **kwargs: further arguments of its call.

  Raises:
    UserError: for a notation that is none.
  """
  before = inspect_module(module, *args, **kwargs)
  decisions = [_decide(layer, rule) for layer in before.layers]
  replacements = tuple(
    (layer.path, str(block)) for layer, (block, _) in zip(before.layers, decisions, strict=True) if block
  )
  student = Cheap(Unbound(module), replacements)
  after = inspect_module(student, *args, **kwargs)
  for path, notation in replacements:
    if before.parameters_at(path) == after.parameters_at(path):
      raise UserError(f'{path}: {notation} does not reach it: expected a convolution that runs when the network does')
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


def inherit(variables: dict[str, Any], teacher_variables: dict[str, Any]) -> dict[str, Any]:
  """Returns a student's variables with the teacher's values wherever the teacher has the same path and shape."""
  teacher = flax.traverse_util.flatten_dict(teacher_variables)
  return flax.traverse_util.unflatten_dict(
    {
      path: teacher[path] if path in teacher and jnp.shape(teacher[path]) == jnp.shape(value) else value
      for path, value in flax.traverse_util.flatten_dict(variables).items()
    }
  )


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


def _obstacle(layer: ConvLayer, block: Block) -> str:
  """Returns why a block cannot take a layer's place, or ''."""
  is_two_taps = block.kind == 'S-2x2'
  obstacles = {
    f'it is a {layer.kind}': layer.kind != 'convolution',
    'its weights are masked': layer.masked,
    'S is what it is': block.kind == 'S',
    'no axis has more than 2 taps': is_two_taps and max(layer.kernel_size) <= 2,
    "no 'batch_stats' in the variable_axes of the transform around it": not is_two_taps and not layer.has_batch_stats,
  }
  if any(obstacles.values()) or is_two_taps:
    return next((obstacle for obstacle, holds in obstacles.items() if holds), '')
  try:
    _kxk(block, layer.in_features, layer.out_features)
  except ValueError as error:
    return str(error).removeprefix(f'block {block}: ')
  return ''


def _kxk(block: Block, in_features: int, out_features: int) -> Convolution:
  """Returns the kxk convolution of a G, B or BG unit. Raises ValueError where groups do not divide the channels."""
  if block.kind == 'G':
    return block.convolutions(in_features, in_features, 1)[0]
  return block.convolutions(in_features, out_features, 1)[1]


def _two_taps(conv: nn.Conv) -> dict[str, Any]:
  """Returns the attributes with which a kernel has 2 taps at its ends; an axis of 2 taps or fewer stays as it is."""
  kernel = (conv.kernel_size,) if isinstance(conv.kernel_size, int) else tuple(conv.kernel_size)
  dilation = conv.kernel_dilation or 1
  dilation = (dilation,) * len(kernel) if isinstance(dilation, int) else tuple(dilation)
  return {
    'kernel_size': tuple(min(k, 2) for k in kernel),
    'kernel_dilation': tuple(max(k - 1, 1) * d for k, d in zip(kernel, dilation, strict=True)),
  }


def _run_replacement(block: Block, conv: nn.Conv, inputs: jax.Array) -> jax.Array:
  """Runs what stands in a convolution's place: clones of it as submodules, with only some attributes changed."""
  train = conv.is_mutable_collection('batch_stats') and not conv.is_initializing()
  kxk = _kxk(block, inputs.shape[-1], conv.features)
  kxk_changes = {'features': kxk.features, 'feature_group_count': kxk.groups}
  axes = 1 if isinstance(conv.kernel_size, int) else len(conv.kernel_size)
  one_by_one = {
    'kernel_size': (1,) * axes,
    'strides': 1,
    'padding': 'VALID',
    'input_dilation': 1,
    'kernel_dilation': 1,
    'feature_group_count': 1,
  }

  def convolve_bn_relu(conv_name, bn_name, inputs, **changes):
    inner = conv.clone(parent=conv, name=conv_name, use_bias=False, kernel_init=conv_init, **changes)
    return BatchNormReLU(parent=conv, name=bn_name)(inner(inputs), train)

  if block.kind == 'G':
    x, last = convolve_bn_relu('grouped', 'bn', inputs, **kxk_changes), 'pointwise'
  else:
    x = convolve_bn_relu('contract', 'bn1', inputs, features=kxk.features, **one_by_one)
    x, last = convolve_bn_relu('middle', 'bn2', x, **kxk_changes), 'expand'
  # BN undoes the scale of the other convolutions, whatever it is; the network's author chooses that of the last one.
  return conv.clone(parent=conv, name=last, kernel_init=_allow_any_shape(conv.kernel_init), **one_by_one)(x)


def _allow_any_shape(kernel_init: Callable[..., Any]) -> Callable[..., Any]:
  """Returns an initialiser that uses `conv_init` where `kernel_init` does not give the shape that it is asked for.

  An initialiser of pretrained weights gives the shape of the original, whatever it is asked for.
  """

  def init(key, shape, dtype=jnp.float32):
    kernel = kernel_init(key, shape, dtype)
    return kernel if nn.meta.unbox(kernel).shape == tuple(shape) else conv_init(key, shape, dtype)

  return init


def _multiply_adds_at(inspection: Inspection, path: str) -> int:
  return sum(call.multiply_adds for call in inspection.calls if f'{call.path}/'.startswith(f'{path}/'))
