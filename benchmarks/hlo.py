"""Reads a program that XLA compiled for a GPU, as text: its kernels, and the bytes that each moves.

The text is that of `jax.stages.Compiled.as_text()`: a computation for the entry, one for each fusion, and one for the
body of each loop. A kernel is what the GPU is given to run: a fusion, a call of cuDNN or cuBLAS, a copy, a sort, a
collective. XLA's `cost_analysis` has nothing for a GPU that the machine does not have, so the bytes are ours: those of
a kernel's operands and of its results, once each. Of an operand that a fusion reads only in slices the slices count,
and of an array that it updates in place the update. A workspace of cuDNN and what the caches save do not count.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

BITS = {
  'pred': 8,
  'bf16': 16,
  'c64': 64,
  'c128': 128,
  'token': 0,
  'opaque': 0,
}  # the others end in their number of bits

# Instructions that give the GPU nothing to do: names for memory, and what runs on the host.
NOT_KERNELS = {
  'add-dependency',
  'after-all',
  'bitcast',
  'constant',
  'get-tuple-element',
  'parameter',
  'partition-id',
  'replica-id',
  'tuple',
}
COLLECTIVES = {
  'all-gather',
  'all-reduce',
  'all-to-all',
  'collective-broadcast',
  'collective-permute',
  'ragged-all-to-all',
  'reduce-scatter',
}
SLICES = {'slice', 'dynamic-slice', 'gather'}
MOVEMENT = SLICES | {
  'bitcast',
  'broadcast',
  'concatenate',
  'constant',
  'convert',
  'copy',
  'dynamic-update-slice',
  'get-tuple-element',
  'pad',
  'parameter',
  'reshape',
  'reverse',
  'transpose',
  'tuple',
}


class Instruction(NamedTuple):
  """An instruction of a computation.

  Attributes:
    name: in its computation.
    opcode: what it does.
    sizes: bytes of its result, or of each element of a tuple.
    elements: of its result, in all.
    operands: names of what it reads.
    line: its text.
  """

  name: str
  opcode: str
  sizes: list[int]
  elements: int
  operands: list[str]
  line: str

  @property
  def size(self) -> int:
    """Bytes of its result."""
    return sum(self.sizes)

  def attribute(self, pattern: str) -> str:
    """Returns the first group of a pattern in the instruction's text, or ''."""
    found = re.search(pattern, self.line)
    return found[1] if found else ''


class Kernel(NamedTuple):
  """What the GPU is given to run once in a step.

  Attributes:
    kind: 'cudnn', 'cublas', 'reduction', 'elementwise', 'copy' or a collective's name.
    bytes: that it reads and writes.
    scope: of the operation in the network that it comes from, as JAX names it.
  """

  kind: str
  bytes: int
  scope: str


class Program:
  """A compiled program: its computations by name, each a list of instructions."""

  def __init__(self, text: str):
    """Takes the text of a compiled program."""
    self.computations: dict[str, list[Instruction]] = {}
    self.entry = ''
    name = ''
    for line in text.splitlines():
      if head := re.match(r'(ENTRY )?%?([\w.\-]+) \(.*\{$', line):
        name = head[2]
        self.computations[name] = []
        if head[1]:
          self.entry = name
      elif instruction := _parse_instruction(line):
        self.computations[name].append(instruction)

  def loop_body(self) -> str:
    """Returns the computation of the entry's loop with the most instructions, or the entry where it has no loop."""
    loops = [i.attribute(r'body=%?([\w.\-]+)') for i in self.computations[self.entry] if i.opcode == 'while']
    return max(loops, key=lambda name: len(self.computations[name]), default=self.entry)

  def kernels(self, name: str) -> Iterator[Kernel]:
    """Yields the kernels of a computation in order, those of the loops and calls in it included.

    Args:
      name: of the computation.

    Raises:
      ValueError: for a loop of an unknown number of steps.
    """
    sizes = {i.name: i for i in self.computations[name]}
    for instruction in self.computations[name]:
      opcode = instruction.opcode
      if opcode in NOT_KERNELS or opcode.endswith(('-done', '-update')):
        continue
      if opcode == 'while':
        steps = instruction.attribute(r'"known_trip_count":\{"n":"(\d+)"')
        if not steps:
          raise ValueError(f'{instruction.name}: a loop of an unknown number of steps')
        yield from list(self.kernels(instruction.attribute(r'body=%?([\w.\-]+)'))) * int(steps)
      elif opcode in {'call', 'conditional', 'async-start'}:
        callee = instruction.attribute(r'(?:to_apply|calls|true_computation|branch_computations=\{)=?%?([\w.\-]+)')
        yield from self.kernels(callee)
      else:
        operands = [sizes[operand] for operand in instruction.operands]
        yield Kernel(
          self._kind(instruction),
          self._bytes(instruction, operands),
          instruction.attribute(r'op_name="([^"]*)"'),
        )

  def _fused(self, instruction: Instruction) -> list[Instruction]:
    return self.computations[instruction.attribute(r'calls=%?([\w.\-]+)')]

  def _kind(self, instruction: Instruction) -> str:
    opcode = instruction.opcode.removesuffix('-start')
    if opcode in COLLECTIVES:
      return opcode
    target = instruction.attribute('custom_call_target="([^"]*)"')
    if target:
      return next((kind for kind in ('cudnn', 'cublas') if kind in target), target)
    opcodes = {i.opcode for i in self._fused(instruction)} if opcode == 'fusion' else {opcode}
    if 'dot' in opcodes:
      return 'cublas'  # or a kernel that XLA writes in its place
    if 'reduce' in opcodes:
      return 'reduction'
    return 'copy' if opcodes <= MOVEMENT else 'elementwise'

  def _bytes(self, instruction: Instruction, operands: Sequence[Instruction]) -> int:
    if instruction.opcode == 'custom-call':
      return sum(operand.size for operand in operands) + instruction.sizes[0]  # the second is a workspace
    if instruction.opcode != 'fusion':
      return sum(operand.size for operand in operands) + instruction.size
    fused = self._fused(instruction)
    parameters = [i for i in fused if i.opcode == 'parameter']
    parameters.sort(key=lambda parameter: int(parameter.attribute(r'parameter\((\d+)\)')))
    read = sum(_bytes_read(parameter, fused) for parameter in parameters)
    return read + _bytes_written(fused)


def _parse_instruction(line: str) -> Instruction | None:
  found = re.match(r'\s+(?:ROOT )?%?([\w.\-]+) = (\((?:[^()]|\([^()]*\))*\)|\S+) ([\w\-]+)\((.*)', line)
  if not found:
    return None
  name, shape, opcode, rest = found.groups()
  operands = re.findall(r'%([\w.\-]+)', rest[: rest.find(')')])
  arrays = [(dtype, _elements(axes)) for dtype, axes in re.findall(r'(\w+)\[([\d,]*)\]', shape)]
  sizes = [elements * _bits(dtype) // 8 for dtype, elements in arrays]
  return Instruction(name, opcode, sizes, sum(elements for _, elements in arrays), operands, line)


def _elements(axes: str) -> int:
  return math.prod(int(axis) for axis in axes.split(',') if axis)


def _bits(dtype: str) -> int:
  digits = re.search(r'\d+', dtype)
  return BITS[dtype] if dtype in BITS or not digits else int(digits[0])


def _users(instruction: Instruction, fused: Sequence[Instruction]) -> Iterator[tuple[Instruction, int]]:
  """Yields what reads the result of an instruction, past changes of its shape and dtype, and as which operand."""
  for user in fused:
    if instruction.name in user.operands:
      if user.opcode in {'bitcast', 'convert', 'reshape'}:
        yield from _users(user, fused)
      else:
        yield user, user.operands.index(instruction.name)


def _bytes_read(parameter: Instruction, fused: Sequence[Instruction]) -> int:
  users = list(_users(parameter, fused))
  if users and all(user.opcode in SLICES and not operand for user, operand in users):
    elements = min(sum(user.elements for user, _ in users), parameter.elements)
    return elements * parameter.size // parameter.elements
  if users and all(user.opcode == 'dynamic-update-slice' and not operand for user, operand in users):
    return 0  # in place
  return parameter.size


def _bytes_written(fused: Sequence[Instruction]) -> int:
  by_name = {i.name: i for i in fused}
  root = next(i for i in fused if i.line.lstrip().startswith('ROOT'))
  outputs = root.operands if root.opcode == 'tuple' else [root.name]
  written = 0
  for name in outputs:
    output = by_name[name]
    while output.opcode in {'bitcast', 'reshape'}:
      output = by_name[output.operands[0]]
    is_update = output.opcode == 'dynamic-update-slice'
    written += by_name[output.operands[1]].size if is_update else output.size
  return written
