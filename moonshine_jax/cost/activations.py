"""The memory of a network's activations, from the program that JAX traces, whatever modules it comes from.

The program is a list of operations, and every operation writes a new array: a convolution, a matrix product, a
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
# Primitives whose output has the numbers of their input.
IDENTITIES = frozenset(('convert_element_type', 'copy', 'copy_p', 'name', 'reshape', 'squeeze', 'stop_gradient'))

ArrayNumber = int | None  # an array that depends on the images, by its number; None for one that does not
IMAGES_ARRAY = 0  # the number of the images


class Operation(NamedTuple):
  """A primitive that reads and writes arrays that depend on the images.

  Attributes:
    elementwise: whether it makes every number of its output from one number of each input.
    reads: numbers of the arrays that it reads.
    writes: numbers of the arrays that it writes.
  """

  elementwise: bool
  reads: tuple[int, ...]
  writes: tuple[int, ...]


class Activations:
  """A network's program as operations on arrays that depend on the images.

  Attributes:
    sizes: bytes of the arrays for one image, by number; 0 for an array that a batch has only one of, as BN's
      statistics.
    operations: in the order of the program.
    outputs: the arrays that the program returns, by number; the first is the logits.
  """

  def __init__(self, program: ClosedJaxpr, batch: int = 1):
    """Reads a program.

    Args:
      program: its last input is a batch of images.
      batch: images in that batch.

    Raises:
      UncountableError: where the program has loops.
    """
    self._batch = batch
    self.sizes: list[int] = []
    self.operations: list[Operation] = []
    *others, images = program.jaxpr.invars
    self._add_array(images.aval)
    self.outputs = self._flatten(program.jaxpr, [*[None] * len(others), IMAGES_ARRAY])
    self._producers = {array: operation for operation in self.operations for array in operation.writes}

  def peak_bytes(self) -> int:
    """Returns the most bytes that are alive at once for one image, as the logits are computed in the order of the code.

    An array is dropped once its last reader has run.
    """
    operations = self._operations_of_logits()
    first: dict[int, int] = {}  # when an array is first alive, as the place of an operation in their order
    last: dict[int, int] = {}  # when it is last alive
    stored = _stored_arrays(operations)
    for time, operation in enumerate(operations):
      if results := stored.intersection(operation.writes):
        for array in results | self._sources(operation.reads, stored):
          first.setdefault(array, time)
          last[array] = time
    changes = [0] * (len(operations) + 1)  # of the bytes alive, from one operation to the next
    for array, time in first.items():
      changes[time] += self.sizes[array]
      changes[last[array] + 1] -= self.sizes[array]
    return max(itertools.accumulate(changes))

  def kept_bytes(self) -> int:
    """Returns the bytes, for one image, of the arrays that the outputs other than the logits are computed from.

    Those are arrays that the operations of the logits write. What is elementwise is computed anew from them.
    """
    others = [array for array in self.outputs[1:] if array is not None]
    return sum(self.sizes[array] for array in self._sources(others, _stored_arrays(self._operations_of_logits())))

  def _add_array(self, aval: Any) -> int:
    """Adds an array and returns its number."""
    self.sizes.append(self._bytes(aval))
    return len(self.sizes) - 1

  def _bytes(self, aval: Any) -> int:
    """Returns the bytes of an array for one image."""
    return 0 if aval.size % self._batch else aval.size // self._batch * aval.dtype.itemsize

  def _flatten(self, jaxpr: Jaxpr, inputs: Sequence[ArrayNumber]) -> list[ArrayNumber]:
    """Adds the operations of a program and of all programs that it calls. Returns its outputs."""
    known_numbers = dict(zip(jaxpr.invars, inputs, strict=True))

    def numbers_of(atoms: Sequence[Any]) -> list[ArrayNumber]:
      return [None if isinstance(atom, Literal) else known_numbers.get(atom) for atom in atoms]

    for eqn in jaxpr.eqns:
      name, operands = eqn.primitive.name, numbers_of(eqn.invars)
      reads = tuple(dict.fromkeys(array for array in operands if array is not None))
      if not reads:
        continue
      if inner := called(eqn):
        outputs: Sequence[ArrayNumber] = self._flatten(inner, operands)
      elif name in LOOPS:
        raise UncountableError(f'there are activations inside of {name}')
      elif name in IDENTITIES:
        outputs = reads
        self.sizes[reads[0]] = min(self.sizes[reads[0]], self._bytes(eqn.outvars[0].aval))  # the narrower dtype
      else:
        outputs = writes = tuple(self._add_array(var.aval) for var in eqn.outvars)
        self.operations.append(Operation(name in ELEMENTWISE, reads, writes))
      known_numbers.update(zip(eqn.outvars, outputs, strict=True))
    return numbers_of(jaxpr.outvars)

  def _operations_of_logits(self) -> list[Operation]:
    """Returns the operations that the logits need, in the order of the program."""
    needed, operations = {self.outputs[0]}, []
    for operation in reversed(self.operations):
      if needed.intersection(operation.writes):
        needed.update(operation.reads)
        operations.append(operation)
    return operations[::-1]

  def _sources(self, arrays: Sequence[int], stored: set[int]) -> set[int]:
    """Returns the stored arrays that arrays are computed from by elementwise primitives."""

    @functools.cache
    def sources_of(array: int) -> frozenset[int]:
      producer = self._producers.get(array)
      if array in stored or producer is None or not producer.elementwise:
        return frozenset((array,))
      return frozenset().union(*map(sources_of, producer.reads))

    return set().union(*map(sources_of, arrays))


def _stored_arrays(operations: Sequence[Operation]) -> set[int]:
  """Returns the arrays that are written: those that are not in the middle of an elementwise chain."""
  readers = defaultdict(list)
  for operation in operations:
    for array in operation.reads:
      readers[array].append(operation)
  return {IMAGES_ARRAY} | {
    array
    for operation in operations
    for array in operation.writes
    if not operation.elementwise or [reader.elementwise for reader in readers[array]] != [True]
  }
