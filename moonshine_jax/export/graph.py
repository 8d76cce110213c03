"""A network as other runtimes should run it: from uint8 images to logits, and nothing that only training needs.

The graph is what JAX traces, so that any network can be exported, with its operations changed where the result stays
the same to float32 rounding:

* calls are inlined, and what depends on parameters alone is computed;
* multiplications by constants and additions of constants that follow one another (the normalisation of the images, BN
  with its running statistics) become part of the kernel and a bias where they follow a convolution that nothing else
  reads, and else one multiplication and one addition;
* grouped convolutions are written in a formulation that the caller names, since runtimes differ in the fastest;
* everything is computed in float32, also where the network is trained in bfloat16.
"""

import collections
import contextlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core
from jax.extend.core import primitives

from moonshine_jax.models.network import Network
from moonshine_jax.ops import formulations, grouped_conv

BLOCK_CHANNELS = 16  # at least, of a block of a loop over blocks, as in the forward pass of `grouped_conv.cpu_rule`
MAX_GROWTH = 4096  # numbers of a constant that is computed from fewer, so that no file is full of zeros

# The parameter that holds what a call calls.
CALLS = {
  primitives.jit_p: 'jaxpr',
  primitives.closed_call_p: 'call_jaxpr',
  primitives.remat_p: 'jaxpr',
  primitives.custom_jvp_call_p: 'call_jaxpr',
  primitives.custom_vjp_call_p: 'call_jaxpr',
}
NARROW = (np.dtype(jnp.bfloat16), np.dtype(np.float16))


def trace(network: Network, variables: Any, images: jax.ShapeDtypeStruct, formulation: str) -> core.ClosedJaxpr:
  """The graph of a network.

  Args:
    network: any.
    variables: of the network, as arrays.
    images: uint8 (batch, height, width, channels); the batch may be symbolic (`jax.export.symbolic_shape`).
    formulation: how a grouped convolution is written: 'grouped', as one; as dense convolutions with zeros between the
      groups, 'blocks', a loop over blocks of neighbouring groups, or 'dense', one; or 'by platform', as
      `ops/grouped_conv.py` has it for the platform that the graph is compiled for.

  Returns:
    A jaxpr from images to float32 logits (batch, classes), without calls.
  """
  closed = jax.make_jaxpr(lambda images: network(variables, images, train=False)[0])(images)
  flat = jax.make_jaxpr(lambda images: _inline(closed, [images]))(images)
  return jax.make_jaxpr(lambda images: _fold(flat, images, formulation))(images)


def operations(graph: core.ClosedJaxpr) -> collections.Counter:
  """How often each operation is in a graph, by JAX's name for it; a convolution in groups is a 'grouped' one."""
  return collections.Counter(
    'grouped' if eqn.params.get('feature_group_count', 1) > 1 else eqn.primitive.name for eqn in graph.jaxpr.eqns
  )


def is_relu(eqn: core.JaxprEqn) -> bool:
  """Whether an operation is the maximum of an array and 0."""
  return eqn.primitive is primitives.max_p and isinstance(eqn.invars[1], core.Literal) and not np.any(eqn.invars[1].val)


def run(closed: core.ClosedJaxpr, inputs: list[Any], apply: Callable[[core.JaxprEqn, list[Any]], Any]) -> list[Any]:
  """Runs a jaxpr, each operation by `apply`, a function of it and its inputs. Returns the outputs."""
  jaxpr = closed.jaxpr
  values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *inputs), strict=True))

  def read(atom):
    return atom.val if isinstance(atom, core.Literal) else values[atom]

  for eqn in jaxpr.eqns:
    outputs = apply(eqn, [read(atom) for atom in eqn.invars])
    values.update(zip(eqn.outvars, outputs if eqn.primitive.multiple_results else [outputs], strict=True))
  return [read(atom) for atom in jaxpr.outvars]


# Calls and constants -------------------------------------------------------------------------------------------------


def _inline(closed: core.ClosedJaxpr, inputs: list[Any]) -> list[Any]:
  """Runs a jaxpr: calls are entered, and operations on constants computed at once where the result is small."""

  def apply(eqn, inputs):
    inputs = [_widen(value) for value in inputs]
    if eqn.primitive in CALLS:
      inner = eqn.params[CALLS[eqn.primitive]]
      inner = inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())
      return _inline(inner, inputs)
    if eqn.primitive is primitives.cond_p and eqn.params.get('branches_platforms'):
      platforms = eqn.params['branches_platforms']  # tuples of names; None for all others, where the plain code is
      plain = platforms.index(None) if None in platforms else 0
      return _inline(eqn.params['branches'][plain], inputs[1:])
    if eqn.primitive.name == 'optimization_barrier':  # for XLA alone
      return inputs
    params = {
      name: np.dtype(np.float32) if isinstance(value, np.dtype) and value in NARROW else value
      for name, value in eqn.params.items()
    }
    known = not any(isinstance(value, jax.core.Tracer) for value in inputs)
    with jax.ensure_compile_time_eval() if known and _is_small(eqn) else contextlib.nullcontext():
      return eqn.primitive.bind(*inputs, **params)

  return run(closed, inputs, apply)


def _widen(value):
  """A constant in float32 where it is narrower."""
  if isinstance(value, jax.core.Tracer) or jnp.result_type(value) not in NARROW:
    return value
  return np.asarray(value).astype(np.float32)


def _is_small(eqn):
  shapes = [var.aval.shape for var in eqn.outvars]
  if not all(isinstance(size, int) for shape in shapes for size in shape):  # a symbolic batch
    return False
  return sum(map(math.prod, shapes)) <= max(MAX_GROWTH, sum(math.prod(atom.aval.shape) for atom in eqn.invars))


# Multiplications and additions ---------------------------------------------------------------------------------------


class _Scaled(NamedTuple):
  """What is not computed yet: source * scale + offset, the source a convolution or a value.

  Attributes:
    compute: a function of scale and offset.
    channel_axis: along which alone a constant may change to be taken in; None where any constant may be.
    scale, offset: arrays of as many axes as the source, or numbers.
  """

  compute: Callable[[Any, Any], Any]
  channel_axis: int | None
  scale: Any = 1.0
  offset: Any = 0.0


# (the scale, the offset) after an operation with a constant c, which is its second input, or its first.
AFTER = {
  primitives.add_p: (lambda s, o, c: (s, o + c), lambda s, o, c: (s, o + c)),
  primitives.sub_p: (lambda s, o, c: (s, o - c), lambda s, o, c: (-s, c - o)),
  primitives.mul_p: (lambda s, o, c: (s * c, o * c), lambda s, o, c: (s * c, o * c)),
  primitives.div_p: (lambda s, o, c: (s / c, o / c), None),
}


def _fold(flat: core.ClosedJaxpr, images: Any, formulation: str) -> list[Any]:
  """Runs a jaxpr without calls: what its outputs do not need is left out, and constants are folded."""
  eqns, readers = _needed(flat.jaxpr)
  values = dict(zip((*flat.jaxpr.constvars, *flat.jaxpr.invars), (*flat.consts, images), strict=True))

  def known(atom):
    return isinstance(atom, core.Literal) or not isinstance(values[atom], jax.core.Tracer | _Scaled)

  def read(atom):
    if isinstance(atom, core.Literal):
      return atom.val
    if isinstance(values[atom], _Scaled):
      compute, _, scale, offset = values[atom]
      values[atom] = compute(scale, offset)
    return values[atom]

  def scaled(atom, constant):
    """The value as a _Scaled that can take the constant in."""
    value = values[atom]
    if (
      isinstance(value, _Scaled)
      and readers[atom] == 1
      and (value.channel_axis is None or _varies_along(constant, value.channel_axis))
    ):
      return value
    source = read(atom)
    return _Scaled(lambda scale, offset: _multiply_add(source, scale, offset), None)

  for eqn in eqns:
    out = eqn.outvars[0]
    constants = [known(atom) for atom in eqn.invars]
    is_float = jnp.issubdtype(getattr(out.aval, 'dtype', None), jnp.floating)
    if eqn.primitive is primitives.conv_general_dilated_p and constants == [False, True] and is_float:
      values[out] = _convolution(eqn, read(eqn.invars[0]), np.asarray(read(eqn.invars[1])), formulation)
    elif (
      eqn.primitive in AFTER
      and any(constants)
      and is_float
      and AFTER[eqn.primitive][constants[0]]
      and (eqn.invars[constants[0]].aval.shape == out.aval.shape)
    ):
      atom, constant = eqn.invars[constants[0]], np.asarray(read(eqn.invars[not constants[0]]))
      value = scaled(atom, constant)
      scale, offset = AFTER[eqn.primitive][constants[0]](value.scale, value.offset, constant)
      values[out] = value._replace(scale=scale, offset=offset)
    elif eqn.primitive is primitives.convert_element_type_p and eqn.invars[0].aval.dtype == out.aval.dtype:
      values[out] = values[eqn.invars[0]] if readers[eqn.invars[0]] == 1 else read(eqn.invars[0])
    else:
      outputs = eqn.primitive.bind(*map(read, eqn.invars), **eqn.params)
      values.update(zip(eqn.outvars, outputs if eqn.primitive.multiple_results else [outputs], strict=True))
  return [read(atom) for atom in flat.jaxpr.outvars]


def _needed(jaxpr):
  """The operations that the outputs need, in order, and how often each variable is read by them or put out."""
  readers = collections.Counter(atom for atom in jaxpr.outvars if isinstance(atom, core.Var))
  eqns = []
  for eqn in reversed(jaxpr.eqns):
    if any(var in readers for var in eqn.outvars):
      eqns.append(eqn)
      readers.update(atom for atom in eqn.invars if isinstance(atom, core.Var))
  return eqns[::-1], readers


def _varies_along(constant, axis):
  return all(size == 1 for i, size in enumerate(constant.shape) if i != axis)


def _multiply_add(x, scale, offset):
  if np.any(scale != 1):
    x = lax.mul(x, _like(x, scale))
  return lax.add(x, _like(x, offset)) if np.any(offset) else x


def _like(x, constant):
  """The constant in the dtype of x, a number with as many axes as x has."""
  constant = np.asarray(constant, x.dtype)
  return constant if constant.ndim else constant.reshape((1,) * x.ndim)


# Convolutions --------------------------------------------------------------------------------------------------------


def _convolution(eqn, x, kernel, formulation):
  """Of x with a constant kernel: a _Scaled that becomes one with another kernel, and a bias."""
  dimensions = eqn.params['dimension_numbers']
  channel_axis = dimensions.out_spec[1]

  def compute(scale, offset):
    by_channel = np.broadcast_to(np.ravel(scale), kernel.shape[dimensions.rhs_spec[0]])
    shape = np.ones(kernel.ndim, int)
    shape[dimensions.rhs_spec[0]] = -1
    scaled = (kernel * by_channel.reshape(shape)).astype(kernel.dtype)
    y = _convolve(eqn, x, scaled, formulation)
    return lax.add(y, _like(y, offset)) if np.any(offset) else y

  return _Scaled(compute, channel_axis)


def _convolve(eqn, x, kernel, formulation):
  params, groups, channels = eqn.params, eqn.params['feature_group_count'], x.shape[-1]
  plain = (
    params['dimension_numbers'] == lax.conv_dimension_numbers(x.shape, kernel.shape, formulations.NHWC)
    and all(dilation == 1 for dilation in params['lhs_dilation'])
    and params['batch_group_count'] == 1
  )
  if groups == 1 or formulation == 'grouped' or not plain:
    return eqn.primitive.bind(x, kernel, **params)
  if formulation == 'by platform':
    return grouped_conv.conv_general_dilated(
      x, kernel, dimension_numbers=formulations.NHWC, **{name: params[name] for name in formulations.Conv._fields}
    )
  blocks = 1 if formulation == 'dense' else formulations.blocks_of(channels, groups, BLOCK_CHANNELS)
  with jax.ensure_compile_time_eval():
    kernel = np.asarray(jax.jit(formulations.merge, static_argnums=(1, 2))(kernel, groups, blocks))
  size = channels // blocks
  parts = [x] if blocks == 1 else [lax.slice_in_dim(x, i * size, (i + 1) * size, axis=3) for i in range(blocks)]
  outputs = [
    eqn.primitive.bind(part, each, **{**params, 'feature_group_count': 1})
    for part, each in zip(parts, np.split(kernel, blocks, axis=3), strict=True)
  ]
  return outputs[0] if blocks == 1 else lax.concatenate(outputs, 3)
