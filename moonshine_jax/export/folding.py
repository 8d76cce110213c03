"""Folds constants of a graph into its convolutions, and writes grouped convolutions in a chosen formulation.

Multiplications by constants and additions of constants that follow one another (the normalisation of the images, BN
with its running statistics) become part of the kernel and a bias where they follow a convolution that nothing else
reads, and else one multiplication and one addition. Runtimes differ in the formulation of grouped convolutions that is
fastest, so the caller names it.
"""

import collections
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core
from jax.extend.core import primitives

from moonshine_jax.ops import formulations, grouped_conv, merged_conv

BLOCK_CHANNELS = 16  # at least, of a block of a loop over blocks, as in the forward pass of `grouped_conv.cpu_rule`


class _Scaled(NamedTuple):
  """What is not computed yet: source * scale + offset, the source a convolution or a value.

  Attributes:
    compute: a function of scale and offset that computes it.
    channel_axis: the only axis along which a constant may vary to be folded in; None where any constant may be.
    scale: an array of as many axes as the source, or a number.
    offset: an array of as many axes as the source, or a number.
  """

  compute: Callable[[Any, Any], Any]
  channel_axis: int | None
  scale: Any = 1.0
  offset: Any = 0.0


# By operation, (scale, offset) after it as functions of scale, offset and the constant: for a constant that is the
# second input, and for one that is the first.
AFTER = {
  primitives.add_p: (lambda s, o, c: (s, o + c), lambda s, o, c: (s, o + c)),
  primitives.sub_p: (lambda s, o, c: (s, o - c), lambda s, o, c: (-s, c - o)),
  primitives.mul_p: (lambda s, o, c: (s * c, o * c), lambda s, o, c: (s * c, o * c)),
  primitives.div_p: (lambda s, o, c: (s / c, o / c), None),
}


def fold(flat: core.ClosedJaxpr, images: Any, formulation: str) -> list[Any]:
  """Runs a jaxpr, leaves out what its outputs do not need, and folds multiplications and additions of constants.

  Args:
    flat: a jaxpr of one input, without calls.
    images: its input, traced.
    formulation: of grouped convolutions, as `graph.trace` names it.

  Returns:
    The outputs of the jaxpr.
  """
  eqns, readers = _needed(flat.jaxpr)
  values = dict(zip((*flat.jaxpr.constvars, *flat.jaxpr.invars), (*flat.consts, images), strict=True))
  folder = _Folder(values, readers, formulation)
  for eqn in eqns:
    folder.apply(eqn)
  return [folder.read(atom) for atom in flat.jaxpr.outvars]


def aval_of(atom: core.Var | core.Literal) -> jax.core.ShapedArray:
  """Returns the shape and the dtype of an input or an output of an operation, which is an array."""
  return cast(jax.core.ShapedArray, atom.aval)


class _Folder:
  """Applies operations one after the other and delays those that may be folded.

  Attributes:
    values: of the variables so far: a traced value, a constant, or a `_Scaled` that is not computed yet.
    readers: how often each variable is read.
    formulation: of grouped convolutions.
  """

  def __init__(self, values: dict[core.Var, Any], readers: collections.Counter[core.Var], formulation: str):
    self.values, self.readers, self.formulation = values, readers, formulation

  def is_known(self, atom: core.Var | core.Literal) -> bool:
    """Returns whether an input is a constant."""
    return isinstance(atom, core.Literal) or not isinstance(self.values[atom], jax.core.Tracer | _Scaled)

  def read(self, atom: core.Var | core.Literal) -> Any:
    """Returns the value of an input, and computes it where that was delayed."""
    if isinstance(atom, core.Literal):
      return atom.val
    if isinstance(self.values[atom], _Scaled):
      compute, _, scale, offset = self.values[atom]
      self.values[atom] = compute(scale, offset)
    return self.values[atom]

  def apply(self, eqn: core.JaxprEqn) -> None:
    """Applies an operation, or delays it."""
    out = eqn.outvars[0]
    constants = [self.is_known(atom) for atom in eqn.invars]
    is_float = isinstance(out.aval, jax.core.ShapedArray) and jnp.issubdtype(out.aval.dtype, jnp.floating)
    if eqn.primitive is primitives.conv_general_dilated_p and constants == [False, True] and is_float:
      x, kernel = self.read(eqn.invars[0]), np.asarray(self.read(eqn.invars[1]))
      self.values[out] = _convolution(eqn, x, kernel, self.formulation)
    elif is_float and _can_fold(eqn, constants):
      self.values[out] = self._fold(eqn, constants)
    elif eqn.primitive is primitives.convert_element_type_p and aval_of(eqn.invars[0]).dtype == aval_of(out).dtype:
      (atom,) = eqn.invars
      self.values[out] = (
        self.values[atom] if isinstance(atom, core.Var) and self.readers[atom] == 1 else self.read(atom)
      )
    else:
      outputs = eqn.primitive.bind(*map(self.read, eqn.invars), **eqn.params)
      self.values.update(zip(eqn.outvars, outputs if eqn.primitive.multiple_results else [outputs], strict=True))

  def _fold(self, eqn: core.JaxprEqn, constants: list[bool]) -> _Scaled:
    """Delays an operation with a constant."""
    first_is_constant = constants[0]
    atom, constant = eqn.invars[first_is_constant], np.asarray(self.read(eqn.invars[not first_is_constant]))
    rule = AFTER[eqn.primitive][first_is_constant]
    assert isinstance(atom, core.Var) and rule is not None  # what `_can_fold` lets pass
    delayed = self._delay(atom, constant)
    scale, offset = rule(delayed.scale, delayed.offset, constant)
    return delayed._replace(scale=scale, offset=offset)

  def _delay(self, atom: core.Var, constant: np.ndarray) -> _Scaled:
    """Returns an input as a _Scaled into which the constant can be folded."""
    value = self.values[atom]
    if (
      isinstance(value, _Scaled)
      and self.readers[atom] == 1
      and (value.channel_axis is None or _varies_along(constant, value.channel_axis))
    ):
      return value
    source = self.read(atom)
    return _Scaled(lambda scale, offset: _multiply_add(source, scale, offset), None)


def _can_fold(eqn: core.JaxprEqn, constants: list[bool]) -> bool:
  """Returns whether an operation multiplies by a constant or adds one, and keeps the shape of its other input."""
  if eqn.primitive not in AFTER or not any(constants):
    return False
  first_is_constant = constants[0]
  has_rule = AFTER[eqn.primitive][first_is_constant] is not None
  return has_rule and aval_of(eqn.invars[first_is_constant]).shape == aval_of(eqn.outvars[0]).shape


def _needed(jaxpr: core.Jaxpr) -> tuple[list[core.JaxprEqn], collections.Counter[core.Var]]:
  """Returns the operations that the outputs need, in order, and how often each variable is read by them or put out."""
  readers = collections.Counter(atom for atom in jaxpr.outvars if isinstance(atom, core.Var))
  eqns = []
  for eqn in reversed(jaxpr.eqns):
    if any(var in readers for var in eqn.outvars):
      eqns.append(eqn)
      readers.update(atom for atom in eqn.invars if isinstance(atom, core.Var))
  return eqns[::-1], readers


def _varies_along(constant: np.ndarray, axis: int) -> bool:
  """Returns whether a constant varies along no other axis than this."""
  return all(size == 1 for i, size in enumerate(constant.shape) if i != axis)


def _multiply_add(x: Any, scale: Any, offset: Any) -> Any:
  """Computes x * scale + offset, without the operations that change nothing."""
  if np.any(scale != 1):
    x = lax.mul(x, _like(x, scale))
  return lax.add(x, _like(x, offset)) if np.any(offset) else x


def _like(x: Any, constant: Any) -> np.ndarray:
  """Returns the constant in the dtype of x; a number gets as many axes as x has."""
  constant = np.asarray(constant, x.dtype)
  return constant if constant.ndim else constant.reshape((1,) * x.ndim)


def _convolution(eqn: core.JaxprEqn, x: Any, kernel: np.ndarray, formulation: str) -> _Scaled:
  """Delays a convolution with a constant kernel: scale and offset become part of the kernel and a bias."""
  dimensions = eqn.params['dimension_numbers']
  channel_axis = dimensions.out_spec[1]

  def compute(scale: Any, offset: Any) -> Any:
    scale_by_channel = np.broadcast_to(np.ravel(scale), kernel.shape[dimensions.rhs_spec[0]])
    shape = np.ones(kernel.ndim, int)
    shape[dimensions.rhs_spec[0]] = -1
    scaled_kernel = (kernel * scale_by_channel.reshape(shape)).astype(kernel.dtype)
    y = _convolve(eqn, x, scaled_kernel, formulation)
    return lax.add(y, _like(y, offset)) if np.any(offset) else y

  return _Scaled(compute, channel_axis)


def _convolve(eqn: core.JaxprEqn, x: Any, kernel: Any, formulation: str) -> Any:
  """Computes a convolution, a grouped one in the given formulation where its layout is NHWC without input dilation."""
  params, groups, channels = eqn.params, eqn.params['feature_group_count'], x.shape[-1]
  is_plain = (
    x.ndim == 4
    and params['dimension_numbers'] == lax.conv_dimension_numbers(x.shape, kernel.shape, formulations.NHWC)
    and all(dilation == 1 for dilation in params['lhs_dilation'])
    and params['batch_group_count'] == 1
  )
  if groups == 1 or formulation == 'grouped' or not is_plain:
    return eqn.primitive.bind(x, kernel, **params)
  if formulation == 'by platform':
    return grouped_conv.conv_general_dilated(
      x, kernel, dimension_numbers=formulations.NHWC, **{name: params[name] for name in formulations.ConvSpec._fields}
    )
  blocks = 1 if formulation == 'dense' else merged_conv.number_of_blocks(channels, groups, BLOCK_CHANNELS)
  with jax.ensure_compile_time_eval():
    kernel = np.asarray(jax.jit(merged_conv.merge, static_argnums=(1, 2))(kernel, groups, blocks))
  size = channels // blocks
  parts = [x] if blocks == 1 else [lax.slice_in_dim(x, i * size, (i + 1) * size, axis=3) for i in range(blocks)]
  outputs = [
    eqn.primitive.bind(part, part_kernel, **{**params, 'feature_group_count': 1})
    for part, part_kernel in zip(parts, np.split(kernel, blocks, axis=3), strict=True)
  ]
  return outputs[0] if blocks == 1 else lax.concatenate(outputs, 3)
