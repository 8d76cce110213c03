"""The memory of a network's activations, from the program that JAX traces: whatever the modules are.

The program is a list of operations, each of which writes an array of its own: a convolution, a matrix product, a
reduction, a pool; or a chain of elementwise primitives, as BN with its ReLU or an addition with the ReLU after it, of
which nothing else reads what is in between. Such a chain is computed at once, as XLA does it. A change of dtype or of
shape alone is no operation.
"""

import functools
import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from moonshine_jax.cost.multiply_adds import LOOPS, UncountableError, called

# Primitives that make every number of their output from one number of each input.
ELEMENTWISE = frozenset(
  (
    'abs',
    'add',
    'and',
    'atan2',
    'broadcast_in_dim',
    'cbrt',
    'ceil',
    'clamp',
    'cos',
    'div',
    'eq',
    'erf',
    'erf_inv',
    'erfc',
    'exp',
    'exp2',
    'expm1',
    'floor',
    'ge',
    'gt',
    'integer_pow',
    'is_finite',
    'le',
    'log',
    'log1p',
    'logistic',
    'lt',
    'max',
    'min',
    'mul',
    'ne',
    'neg',
    'not',
    'or',
    'pow',
    'reduce_precision',
    'rem',
    'round',
    'rsqrt',
    'select_n',
    'sign',
    'sin',
    'sqrt',
    'square',
    'sub',
    'tan',
    'tanh',
    'transpose',
    'xor',
  )
)
# Primitives whose output is their input.
SAME = frozenset(('convert_element_type', 'copy', 'copy_p', 'name', 'reshape', 'squeeze', 'stop_gradient'))

Input = int | None  # an array that depends on the images, by its number; None for what does not
IMAGES = 0


class Operation(NamedTuple):
  """A primitive that reads and writes arrays that depend on the images, by their numbers."""

  elementwise: bool
  reads: tuple[int, ...]
  writes: tuple[int, ...]


class Activations:
  """A network's program as operations on arrays that depend on the images.

  Attributes:
    sizes: bytes of each array for one image; 0 of what a batch has only one of, as BN's statistics.
    operations: in their order.
    outputs: of the program, of which the first is the logits.
  """

  def __init__(self, program: ClosedJaxpr, batch: int = 1):
    """Of a program whose last input is a batch of so many images. Raises UncountableError where it has loops."""
    self._batch = batch
    self.sizes: list[int] = []
    self.operations: list[Operation] = []
    *others, images = program.jaxpr.invars
    self._new(images.aval)
    self.outputs = self._flatten(program.jaxpr, [*[None] * len(others), IMAGES])
    self._producers = {array: each for each in self.operations for array in each.writes}

  def peak(self) -> int:
    """The most bytes that are alive at once, while the logits are computed in the order of the code.

    An array is dropped once its last reader has run.
    """
    first, last, operations = {}, {}, self._of_logits()
    written = _written(operations)
    for time, operation in enumerate(operations):
      if own := written.intersection(operation.writes):
        for array in own | self._sources(operation.reads, written):
          first.setdefault(array, time)
          last[array] = time
    changes = [0] * (len(operations) + 1)  # of the bytes alive, from one operation to the next
    for array, time in first.items():
      changes[time] += self.sizes[array]
      changes[last[array] + 1] -= self.sizes[array]
    return max(itertools.accumulate(changes))

  def kept(self) -> int:
    """Bytes that the outputs other than the logits are made of: those arrays that the operations of the logits write.

    What is elementwise is computed anew from them.
    """
    others = [array for array in self.outputs[1:] if array is not None]
    return sum(self.sizes[array] for array in self._sources(others, _written(self._of_logits())))

  def _new(self, aval: Any) -> int:
    self.sizes.append(self._bytes(aval))
    return len(self.sizes) - 1

  def _bytes(self, aval: Any) -> int:
    return 0 if aval.size % self._batch else aval.size // self._batch * aval.dtype.itemsize

  def _flatten(self, jaxpr: Jaxpr, inputs: Sequence[Input]) -> list[Input]:
    """Adds the operations of a program and of all that it calls. Returns its outputs."""
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def numbers(atoms):
      return [None if isinstance(atom, Literal) else known.get(atom) for atom in atoms]

    for eqn in jaxpr.eqns:
      name, given = eqn.primitive.name, numbers(eqn.invars)
      reads = tuple(dict.fromkeys(each for each in given if each is not None))
      if not reads:
        continue
      if inner := called(eqn):
        outputs = self._flatten(inner, given)
      elif name in LOOPS:
        raise UncountableError(f'there are activations inside of {name}')
      elif name in SAME:
        outputs = reads
        self.sizes[reads[0]] = min(self.sizes[reads[0]], self._bytes(eqn.outvars[0].aval))  # the narrower dtype
      else:
        outputs = [self._new(var.aval) for var in eqn.outvars]
        self.operations.append(Operation(name in ELEMENTWISE, reads, tuple(outputs)))
      known.update(zip(eqn.outvars, outputs, strict=True))
    return numbers(jaxpr.outvars)

  def _of_logits(self) -> list[Operation]:
    """The operations that the logits need."""
    needed, found = {self.outputs[0]}, []
    for operation in reversed(self.operations):
      if needed.intersection(operation.writes):
        needed.update(operation.reads)
        found.append(operation)
    return found[::-1]

  def _sources(self, arrays: Sequence[int], written: set[int]) -> set[int]:
    """The arrays, of those that are written, which these are computed from by elementwise primitives."""

    @functools.cache
    def of(array):
      producer = self._producers.get(array)
      if array in written or producer is None or not producer.elementwise:
        return frozenset((array,))
      return frozenset().union(*map(of, producer.reads))

    return set().union(*map(of, arrays))


def _written(operations: Sequence[Operation]) -> set[int]:
  """The arrays that are not in the middle of an elementwise chain."""
  readers = defaultdict(list)
  for operation in operations:
    for array in operation.reads:
      readers[array].append(operation)
  return {IMAGES} | {
    array
    for operation in operations
    for array in operation.writes
    if not operation.elementwise or [each.elementwise for each in readers[array]] != [True]
  }
