"""Multiply-adds of a network, counted in the program that JAX traces, whatever modules it comes from.

Every output position of a convolution or a fully connected layer costs one multiply-add for each weight of its kernel,
padding included; of a transposed convolution, every input position. Nothing else costs any. A layer is any convolution
or matrix product of what depends on the images with what depends on the parameters alone, so a product of two things
that both depend on the images, as in self-attention, costs none.

The bits of an integer tell what an array depends on: IMAGES_BIT is for the images, and every array of parameters has a
higher bit.
"""

import functools
import math
import operator
from collections import Counter
from collections.abc import Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

IMAGES_BIT = 1
LOOPS = ('scan', 'while', 'cond')  # primitives that hold programs which are not run just once
PRODUCTS = ('conv_general_dilated', 'dot_general')  # primitives that multiply images by a kernel


class UncountableError(Exception):
  """A program with parts that run an unknown number of times; the message says where they are."""


def count_multiply_adds(program: ClosedJaxpr, inputs: Sequence[int]) -> Counter[int]:
  """Counts the multiply-adds of a program.

  Args:
    program: of any network.
    inputs: the bits of the program's inputs.

  Returns:
    Multiply-adds, by the bits of the parameters that a kernel depends on.

  Raises:
    UncountableError: where nobody knows how often a layer runs.
  """
  return _count_program(program.jaxpr, inputs)[0]


def called(eqn: Any) -> Jaxpr | None:
  """Returns the program of the function that an equation calls, as `jit` does; None where it calls none."""
  programs = [param.jaxpr if isinstance(param, ClosedJaxpr) else param for param in _programs(eqn)]
  if eqn.primitive.name in LOOPS or len(programs) != 1:
    return None
  same_shapes = _shapes(eqn.invars) == _shapes(programs[0].invars)
  return programs[0] if same_shapes else None  # the program of a reduction takes two numbers


def _programs(eqn: Any) -> list[ClosedJaxpr | Jaxpr]:
  """Returns the programs among an equation's parameters."""
  return [param for param in eqn.params.values() if isinstance(param, ClosedJaxpr | Jaxpr)]


def _shapes(atoms: Sequence[Any]) -> list[tuple[int, ...]]:
  """Returns the shapes of a program's or an equation's inputs."""
  return [atom.aval.shape for atom in atoms]


def _count_program(jaxpr: Jaxpr, inputs: Sequence[int]) -> tuple[Counter[int], list[int]]:
  """Returns the multiply-adds of a program and the bits of its outputs, from the bits of its inputs."""
  known_bits = dict(zip(jaxpr.invars, inputs, strict=True))

  def bits_of(atoms: Sequence[Any]) -> list[int]:
    return [0 if isinstance(atom, Literal) else known_bits.get(atom, 0) for atom in atoms]

  total: Counter[int] = Counter()
  for eqn in jaxpr.eqns:
    counts, outputs = _count_equation(eqn, bits_of(eqn.invars))
    total.update(counts)
    known_bits.update(zip(eqn.outvars, outputs, strict=True))
  return total, bits_of(jaxpr.outvars)


def _count_equation(eqn: Any, inputs: list[int]) -> tuple[Counter[int], list[int]]:
  """Returns the multiply-adds of an equation and the bits of its outputs, from the bits of its inputs."""
  name = eqn.primitive.name
  outputs = [functools.reduce(operator.or_, inputs, 0)] * len(eqn.outvars)
  if name in PRODUCTS:
    kernels = [bits for bits in inputs if bits and not bits & IMAGES_BIT]
    is_layer = kernels and any(bits & IMAGES_BIT for bits in inputs)
    return Counter({kernels[0]: _positions_times_weights(eqn)} if is_layer else ()), outputs
  if name == 'scan':
    return _count_scan(eqn.params, inputs)
  if name == 'cond':  # the branch that costs the most
    branches = [_count_program(branch.jaxpr, inputs[1:])[0] for branch in eqn.params['branches']]
    return max(branches, key=Counter.total), outputs
  if program := called(eqn):
    return _count_program(program, inputs)
  if any(product in str(program) for program in _programs(eqn) for product in PRODUCTS):
    raise UncountableError(f'there are convolutions or matrix products inside of {name}')
  return Counter(), outputs


def _count_scan(params: dict[str, Any], inputs: list[int]) -> tuple[Counter[int], list[int]]:
  """Returns the multiply-adds of all steps of a scan and the bits of its outputs."""
  if (
    'ft_in' in params
  ):  # from JAX 0.12 on: the inputs as a tree of constants, of what is carried, and of what is scanned
    constants, carry, _ = map(len, params['ft_in'].unpack())
  else:
    constants, carry = params['num_consts'], params['num_carry']
  while True:  # until the bits of what is carried no longer change: it depends on all that it ever comes from
    counts, outputs = _count_program(params['jaxpr'].jaxpr, inputs)
    carried = [before | after for before, after in zip(inputs[constants:], outputs[:carry], strict=False)]
    if carried == inputs[constants : constants + carry]:
      return Counter({bits: params['length'] * count for bits, count in counts.items()}), outputs
    inputs = [*inputs[:constants], *carried, *inputs[constants + carry :]]


def _positions_times_weights(eqn: Any) -> int:
  """Returns the multiply-adds of a convolution or a matrix product."""
  if eqn.primitive.name == 'dot_general':
    (contracted, _), _ = eqn.params['dimension_numbers']
    return eqn.outvars[0].aval.size * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
  (images, kernel), out = (var.aval for var in eqn.invars), eqn.outvars[0].aval
  layout = eqn.params['dimension_numbers']
  if any(dilation > 1 for dilation in eqn.params['lhs_dilation']):  # transposed: every input meets each weight
    return images.size // images.shape[layout.lhs_spec[1]] * kernel.size
  return out.size // out.shape[layout.out_spec[1]] * kernel.size
