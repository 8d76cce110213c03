"""Multiply-adds, counted in the program that JAX traces: whatever the modules are that it comes from.

The one rule: every output position of a convolution or a fully connected layer costs one for each weight of its kernel,
padding included; of a transposed convolution, every input position. Nothing else costs any. A layer is any convolution
or matrix product of what depends on the images with what depends on the parameters alone, so a product of two things
that depend on the images, as in self-attention, costs none.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

IMAGES = 1  # the bit of what depends on the images; each array of parameters has one of its own, above it
LOOPS = ('scan', 'while', 'cond')  # what holds programs that are not run once


class UncountableError(Exception):
  """A program of which nobody knows how often its parts run; the message says where they are."""


def count_multiply_adds(program: ClosedJaxpr, inputs: Sequence[int]) -> Counter[int]:
  """Those of a program, by the bits of what the kernels depend on. Raises UncountableError.

  Args:
    program: of any network.
    inputs: the bits of each of its inputs.
  """
  return _walk(program.jaxpr, inputs)[0]


def called(eqn: Any) -> Jaxpr | None:
  """The program of the function that an equation calls, as `jit` does; None where it calls none."""
  inner = [getattr(each, 'jaxpr', each) for each in eqn.params.values() if isinstance(each, ClosedJaxpr | Jaxpr)]
  if eqn.primitive.name in LOOPS or len(inner) != 1:
    return None
  shapes = [[atom.aval.shape for atom in atoms] for atoms in (eqn.invars, inner[0].invars)]
  return inner[0] if shapes[0] == shapes[1] else None  # that of a reduction takes two numbers


def _walk(jaxpr: Jaxpr, inputs: Sequence[int]) -> tuple[Counter[int], list[int]]:
  """The multiply-adds of a program, and what its outputs depend on, from what its inputs do."""
  known = dict(zip(jaxpr.invars, inputs, strict=True))

  def bits(atoms):
    return [0 if isinstance(atom, Literal) else known.get(atom, 0) for atom in atoms]

  total = Counter()
  for eqn in jaxpr.eqns:
    costs, outputs = _equation(eqn, bits(eqn.invars))
    total.update(costs)
    known.update(zip(eqn.outvars, outputs, strict=True))
  return total, bits(jaxpr.outvars)


def _equation(eqn: Any, inputs: list[int]) -> tuple[Counter[int], list[int]]:
  name, params = eqn.primitive.name, eqn.params
  outputs = [_either(inputs)] * len(eqn.outvars)
  if name in ('conv_general_dilated', 'dot_general'):
    kernels = [each for each in inputs if each and not each & IMAGES]
    layer = kernels and any(each & IMAGES for each in inputs)
    return Counter({kernels[0]: _positions_times_weights(eqn)} if layer else ()), outputs
  if name == 'scan':
    constants, carry = params['num_consts'], params['num_carry']
    while True:  # what is carried depends on all that it ever comes from
      costs, found = _walk(params['jaxpr'].jaxpr, inputs)
      carried = [before | after for before, after in zip(inputs[constants:], found[:carry], strict=False)]
      if carried == inputs[constants : constants + carry]:
        return Counter({each: params['length'] * number for each, number in costs.items()}), found
      inputs = [*inputs[:constants], *carried, *inputs[constants + carry :]]
  if name == 'cond':
    return max((_walk(branch.jaxpr, inputs[1:])[0] for branch in params['branches']), key=Counter.total), outputs
  if inner := called(eqn):
    return _walk(inner, inputs)
  programs = [each for each in params.values() if isinstance(each, ClosedJaxpr | Jaxpr)]
  if any(product in str(each) for each in programs for product in ('conv_general_dilated', 'dot_general')):
    raise UncountableError(f'there are convolutions or matrix products inside of {name}')
  return Counter(), outputs


def _positions_times_weights(eqn: Any) -> int:
  if eqn.primitive.name == 'dot_general':
    (contracted, _), _ = eqn.params['dimension_numbers']
    return eqn.outvars[0].aval.size * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
  (images, kernel), out = (var.aval for var in eqn.invars), eqn.outvars[0].aval
  layout = eqn.params['dimension_numbers']
  if any(dilation > 1 for dilation in eqn.params['lhs_dilation']):  # transposed: every input meets each weight
    return images.size // images.shape[layout.lhs_spec[1]] * kernel.size
  return out.size // out.shape[layout.out_spec[1]] * kernel.size


def _either(inputs: Sequence[int]) -> int:
  found = 0
  for each in inputs:
    found |= each
  return found
