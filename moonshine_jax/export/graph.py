"""Traces a network as other runtimes should run it: from uint8 images to logits, without what only training needs.

The graph is what JAX traces, so that any network can be exported, with its operations changed where the result stays
the same to float32 rounding:

* calls are inlined, and what depends on parameters alone is computed;
* multiplications by constants and additions of constants are folded, and grouped convolutions are written in the
  formulation that the caller names (both in `folding`);
* everything is computed in float32, also where the network is trained in bfloat16.
"""

import collections
import contextlib
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.extend.core import primitives

from moonshine_jax.export import folding
from moonshine_jax.models.network import Network

MAX_GROWTH = 4096  # numbers of a constant that is computed from fewer, so that no file is full of zeros

# The parameter that holds what a call calls.
CALLS = {
  primitives.jit_p: 'jaxpr',
  primitives.closed_call_p: 'call_jaxpr',
  primitives.remat_p: 'jaxpr',
  primitives.custom_jvp_call_p: 'call_jaxpr',
  primitives.custom_vjp_call_p: 'call_jaxpr',
}
NARROW_DTYPES = (np.dtype(jnp.bfloat16), np.dtype(np.float16))


def trace(network: Network, variables: Any, images: jax.ShapeDtypeStruct, formulation: str) -> core.ClosedJaxpr:
  """Traces the inference graph of a network.

  Args:
    network: any network.
    variables: of the network, as arrays; they become constants of the graph.
    images: uint8 (batch, height, width, channels); the batch may be symbolic (`jax.export.symbolic_shape`).
    formulation: how a grouped convolution is written: 'grouped', as one; as dense convolutions with zeros between the
      groups, 'blocks', a loop over blocks of neighbouring groups, or 'dense', one; or 'by platform', as
      `ops/grouped_conv.py` has it for the platform that the graph is compiled for.

  Returns:
    A jaxpr from images to float32 logits (batch, classes), without calls.
  """
  closed = jax.make_jaxpr(lambda images: network(variables, images, train=False)[0])(images)
  flat = jax.make_jaxpr(lambda images: _inline(closed, [images]))(images)
  return jax.make_jaxpr(lambda images: folding.fold(flat, images, formulation))(images)


def count_operations(graph: core.ClosedJaxpr) -> collections.Counter[str]:
  """Counts the operations of a graph by JAX's names; a convolution in groups counts as 'grouped'."""
  return collections.Counter(
    'grouped' if eqn.params.get('feature_group_count', 1) > 1 else eqn.primitive.name for eqn in graph.jaxpr.eqns
  )


def is_relu(eqn: core.JaxprEqn) -> bool:
  """Returns whether an operation is the maximum of an array and 0."""
  return eqn.primitive is primitives.max_p and isinstance(eqn.invars[1], core.Literal) and not np.any(eqn.invars[1].val)


def interpret(
  closed: core.ClosedJaxpr, inputs: list[Any], apply: Callable[[core.JaxprEqn, list[Any]], Any]
) -> list[Any]:
  """Runs a jaxpr with another meaning of its operations.

  Args:
    closed: the jaxpr.
    inputs: of the jaxpr.
    apply: computes the result of an operation, or the list of its results, from the operation and its inputs.

  Returns:
    The outputs of the jaxpr.
  """
  jaxpr = closed.jaxpr
  values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *inputs), strict=True))

  def read(atom: core.Var | core.Literal) -> Any:
    return atom.val if isinstance(atom, core.Literal) else values[atom]

  for eqn in jaxpr.eqns:
    outputs = apply(eqn, [read(atom) for atom in eqn.invars])
    values.update(zip(eqn.outvars, outputs if eqn.primitive.multiple_results else [outputs], strict=True))
  return [read(atom) for atom in jaxpr.outvars]


def _inline(closed: core.ClosedJaxpr, inputs: list[Any]) -> list[Any]:
  """Runs a jaxpr, enters its calls, and computes operations on constants at once where the result is small."""

  def apply(eqn: core.JaxprEqn, inputs: list[Any]) -> Any:
    inputs = [_widen(value) for value in inputs]
    if eqn.primitive in CALLS:
      inner = eqn.params[CALLS[eqn.primitive]]
      inner = inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())
      return _inline(inner, inputs)
    if eqn.primitive is primitives.cond_p and eqn.params.get('branches_platforms'):
      platforms = eqn.params['branches_platforms']  # tuples of names; None for all others, where the plain code is
      plain = platforms.index(None) if None in platforms else 0
      return _inline(eqn.params['branches'][plain], inputs[1:])
    if eqn.primitive.name == 'optimization_barrier':  # it has a meaning for XLA alone
      return inputs
    params = {
      name: np.dtype(np.float32) if isinstance(value, np.dtype) and value in NARROW_DTYPES else value
      for name, value in eqn.params.items()
    }
    is_known = not any(isinstance(value, jax.core.Tracer) for value in inputs)
    with jax.ensure_compile_time_eval() if is_known and _is_small(eqn) else contextlib.nullcontext():
      return eqn.primitive.bind(*inputs, **params)

  return interpret(closed, inputs, apply)


def _widen(value: Any) -> Any:
  """Returns a constant of a narrow dtype as float32, and any other value as it is."""
  if isinstance(value, jax.core.Tracer) or jnp.result_type(value) not in NARROW_DTYPES:
    return value
  return np.asarray(value).astype(np.float32)


def _is_small(eqn: core.JaxprEqn) -> bool:
  """Returns whether the outputs are no larger than the inputs, or than MAX_GROWTH; a symbolic batch is not small."""
  shapes = [folding.aval_of(var).shape for var in eqn.outvars]
  if not all(isinstance(size, int) for shape in shapes for size in shape):  # a symbolic batch
    return False
  return sum(map(math.prod, shapes)) <= max(
    MAX_GROWTH, sum(math.prod(folding.aval_of(atom).shape) for atom in eqn.invars)
  )
