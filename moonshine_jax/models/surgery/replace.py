"""Cheap convolutions in place of those of any linen module, whose source stays as it is.

A convolution of kernel k becomes what a unit of the paper's block (Table 1) has in its place:

| notation  | in place of a k convolution of C to N channels                            | below its path         |
|-----------|---------------------------------------------------------------------------|------------------------|
| `G(g)`    | k in g groups (C to C), BN, ReLU, 1x1 (C to N)                            | grouped, bn, pointwise |
| `B(b)`    | 1x1 (C to M = N/b), BN, ReLU, k (M to M), BN, ReLU, 1x1 (M to N)          | contract, bn1, middle, |
| `BG(b,g)` | as `B(b)`, the k in g groups                                              |   bn2, expand          |
| `S-2x2`   | 2 taps for k, dilated to the same extent, along each axis of more than 2  | kernel, bias           |

The k convolution keeps strides, padding and dilations, the last convolution the bias. `N` and `M` in a number of groups
are the channels that the grouped convolution sees, here C and M. A `B` takes the place of one convolution here, and of
two in a residual block of `models.blocks`.
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
from moonshine_jax.models.surgery.inspection import ConvLayer, Inspection, inspect
from moonshine_jax.models.surgery.intercept import Unbound, adapt, changed

Rule = str | Callable[[ConvLayer], str | None]


class Cheap(nn.Module):
  """A network with some of its convolutions replaced, called as the original is called, with `__call__` alone.

  The BN of the replacements uses and updates the statistics of the batch where 'batch_stats' is mutable, and the
  running statistics elsewhere.

  Attributes:
    original: the network.
    replacements: (path, notation) of each convolution that is replaced.
    axis_name: the pmapped axis over which all BN takes its batch statistics, or None; see `wrapping.adapt`.
  """

  original: Unbound
  replacements: tuple[tuple[str, str], ...]
  axis_name: str | None = None

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    blocks = {path: Block.parse(notation) for path, notation in self.replacements}

    def substitute(call, args, kwargs, context):
      module = context.module
      block = blocks.get('/'.join(module.path[len(self.path) :])) if isinstance(module, nn.Conv) else None
      if block is None or context.method_name != '__call__':
        return call(*args, **kwargs)
      if block.kind == 'S-2x2':
        with changed(module, **_two_taps(module)):
          return call(*args, **kwargs)
      return _convolve(block, module, *args, **kwargs)

    original = self.original.bind(self, f'{self.replacements} {self.axis_name}')
    with nn.intercept_methods(adapt(self.axis_name)), nn.intercept_methods(substitute):
      return original(*args, **kwargs)


@dataclasses.dataclass(frozen=True)
class Row:
  """What becomes of one convolution.

  Attributes:
    layer: as it was.
    notation: of what replaces it, or None where it stays.
    reason: why it stays, or ''.
    parameters, multiply_adds: afterwards, counted as in ConvLayer; the parameters with BN's running statistics.
  """

  layer: ConvLayer
  notation: str | None
  reason: str
  parameters: int
  multiply_adds: int


@dataclasses.dataclass(frozen=True)
class Plan:
  """What becomes of a network; as a string, a table.

  Attributes:
    student: the network with the replacements.
    rows: one for each convolution, in the order in which they run.
    parameters: of the whole network, before and after, with BN's running statistics.
    multiply_adds: likewise, of its convolutions and fully connected layers, for one example.
  """

  student: Cheap
  rows: tuple[Row, ...]
  parameters: tuple[int, int]
  multiply_adds: tuple[int, int]

  def __str__(self) -> str:
    heading = ['path', 'layer', 'becomes', 'because', 'parameters', 'after', 'multiply-adds', 'after']
    lines = [
      [
        row.layer.path,
        str(row.layer),
        row.notation or 'kept',
        row.reason,
        *(
          f'{number:,}' for number in (row.layer.parameters, row.parameters, row.layer.multiply_adds, row.multiply_adds)
        ),
      ]
      for row in self.rows
    ]
    total = ['whole network', '', '', '', *(f'{number:,}' for number in (*self.parameters, *self.multiply_adds))]
    alignment = ['left'] * 4 + ['right'] * 4
    return tabulate.tabulate([heading, *lines, total], tablefmt='plain', disable_numparse=True, colalign=alignment)


def cheapen(module: nn.Module, rule: Rule, *args: Any, **kwargs: Any) -> Cheap:
  """The student of a network: the same network, called in the same way, with cheap convolutions.

  Variables of layers that stay keep their paths; `inherit` gives a student the teacher's values of them.

  Args:
    module: any linen module; in `setup` style or compact, its layers shared, scanned (`nn.scan` must carry
      'batch_stats'), recomputed (`nn.remat`) or in lists.
    rule: a notation, for all convolutions but the first, the last if no fully connected layer follows, those of 1x1 and
      those in groups (ConvLayer.stays says which and why); or a function from a ConvLayer to a notation, or to None
      for what is to stay.
    *args, **kwargs: an example to call it with, a batch; arrays may be given as `jax.ShapeDtypeStruct`.

  Returns:
    The student, to be trained with `mutable=['batch_stats']`; for `pmap`, `student.clone(axis_name=...)`.

  Raises:
    UserError: for a notation that is none, and where nothing can be replaced.
  """
  made = plan(module, rule, *args, **kwargs)
  if not made.student.replacements:
    stay = '; '.join(f'{row.layer.path}: {row.reason}' for row in made.rows[:5])
    more = f'; and {len(made.rows) - 5} more' if len(made.rows) > 5 else ''
    raise UserError(
      f'{type(module).__name__}: nothing in it is replaced: '
      + (f'{stay}{more}' if made.rows else 'no convolution in it')
    )
  return made.student


def plan(module: nn.Module, rule: Rule, *args: Any, **kwargs: Any) -> Plan:
  """What `cheapen` does with every convolution, and what it saves. Raises UserError for a notation that is none."""
  before = inspect(module, *args, **kwargs)
  decisions = [_decide(layer, rule) for layer in before.layers]
  replacements = tuple(
    (layer.path, str(block)) for layer, (block, _) in zip(before.layers, decisions, strict=True) if block
  )
  student = Cheap(Unbound(module), replacements)
  after = inspect(student, *args, **kwargs)
  for path, notation in replacements:
    if before.parameters_at(path) == after.parameters_at(path):
      raise UserError(f'{path}: {notation} does not reach it: expected a convolution that runs when the network does')
  rows = tuple(
    Row(
      layer,
      str(block) if block else None,
      reason,
      after.parameters(layer.path) if block else layer.parameters,
      _multiply_adds_at(after, layer.path) if block else layer.multiply_adds,
    )
    for layer, (block, reason) in zip(before.layers, decisions, strict=True)
  )
  return Plan(student, rows, (before.parameters(), after.parameters()), (before.multiply_adds, after.multiply_adds))


def inherit(variables: dict[str, Any], teacher_variables: dict[str, Any]) -> dict[str, Any]:
  """A student's variables with the teacher's values wherever it has one of the same path and shape."""
  teacher = flax.traverse_util.flatten_dict(teacher_variables)
  return flax.traverse_util.unflatten_dict(
    {
      path: teacher[path] if path in teacher and jnp.shape(teacher[path]) == jnp.shape(value) else value
      for path, value in flax.traverse_util.flatten_dict(variables).items()
    }
  )


def _decide(layer: ConvLayer, rule: Rule) -> tuple[Block | None, str]:
  """What replaces a layer; or None, and why it stays."""
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
  """Why a block cannot take a layer's place, or ''."""
  if layer.kind != 'convolution':
    return f'it is a {layer.kind}'
  if layer.masked:
    return 'its weights are masked'
  if block.kind == 'S':
    return 'S is what it is'
  if block.kind == 'S-2x2':
    return '' if max(layer.kernel_size) > 2 else 'no axis has more than 2 taps'
  if not layer.has_batch_stats:
    return "no 'batch_stats' in the variable_axes of the transform around it"
  try:
    _kxk(block, layer.in_features, layer.out_features)
  except ValueError as error:
    return str(error).removeprefix(f'block {block}: ')
  return ''


def _kxk(block: Block, in_features: int, out_features: int) -> Convolution:
  """The one convolution of a G, B or BG unit that is no 1x1. Raises ValueError where channels cannot be divided so."""
  if block.kind == 'G':
    return block.convolutions(in_features, in_features, 1)[0]
  return block.convolutions(in_features, out_features, 1)[1]


def _two_taps(conv: nn.Conv) -> dict[str, Any]:
  """The attributes that make 2 taps of a kernel, at its two ends; 2 taps they leave alone."""
  kernel = (conv.kernel_size,) if isinstance(conv.kernel_size, int) else tuple(conv.kernel_size)
  dilation = conv.kernel_dilation or 1
  dilation = (dilation,) * len(kernel) if isinstance(dilation, int) else tuple(dilation)
  return {
    'kernel_size': tuple(min(k, 2) for k in kernel),
    'kernel_dilation': tuple(max(k - 1, 1) * d for k, d in zip(kernel, dilation, strict=True)),
  }


def _convolve(block: Block, conv: nn.Conv, inputs: jax.Array) -> jax.Array:
  """What stands in a convolution's place, as its submodules: clones of it, which keep all that is not said here."""
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
  # The others' scale is undone by their BN, whatever it is; that of this one is for the network's author to choose.
  return conv.clone(parent=conv, name=last, kernel_init=_of_any_shape(conv.kernel_init), **one_by_one)(x)


def _of_any_shape(kernel_init: Callable[..., Any]) -> Callable[..., Any]:
  """An initialiser that may be one of pretrained weights, which have the shape of the original whatever is asked."""

  def init(key, shape, dtype=jnp.float32):
    kernel = kernel_init(key, shape, dtype)
    return kernel if nn.meta.unbox(kernel).shape == tuple(shape) else conv_init(key, shape, dtype)

  return init


def _multiply_adds_at(inspection: Inspection, path: str) -> int:
  return sum(call.multiply_adds for call in inspection.calls if f'{call.path}/'.startswith(f'{path}/'))
