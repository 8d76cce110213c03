"""What a linen module does with an example, seen from outside and without computing anything.

The module is initialised abstractly under an interceptor that marks what its modules return. The trace then shows how
often each of them really ran (a body of `nn.scan` is traced more often than it stands in the result, and runs once for
each step), which outputs can be taken out, and which convolutions are no linen modules at all.
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params

from moonshine_jax.errors import UserError
from moonshine_jax.models.surgery.intercept import CAPTURED, Unbound

KINDS = {nn.ConvTranspose: 'transposed convolution', nn.ConvLocal: 'local convolution', nn.Conv: 'convolution'}
OUTSIDE = 'convolution outside of linen'

_inspections = itertools.count()


@dataclasses.dataclass(frozen=True)
class ConvLayer:
  """A convolution of a network: what a rule sees of it.

  Attributes:
    path: of its module, as 'conv2_block1/conv1'; where it is none, JAX's name stack.
    kind: one of KINDS, or OUTSIDE: of `jax.lax` and no linen module, or of a module that cannot be intercepted.
    kernel_size, strides, dilation: one number for each spatial axis.
    in_features, out_features: channels.
    groups: 1 of a dense convolution.
    input_shape, output_shape: of one example, channels last, at the last call; of OUTSIDE the whole arrays.
    parameters: with its bias, if it has one; 0 of OUTSIDE.
    multiply_adds: of all calls, for one example.
    masked: whether its weights are masked.
    has_batch_stats: whether running statistics can be kept there; not so in an `nn.scan` without 'batch_stats'.
    is_stem: whether it is the first convolution that runs.
    is_final: whether it is the last one, and no matrix product follows.
  """

  path: str
  kind: str
  kernel_size: tuple[int, ...]
  strides: tuple[int, ...]
  dilation: tuple[int, ...]
  in_features: int
  out_features: int
  groups: int
  input_shape: tuple[int, ...]
  output_shape: tuple[int, ...]
  parameters: int = 0
  multiply_adds: int = 0
  masked: bool = False
  has_batch_stats: bool = True
  is_stem: bool = False
  is_final: bool = False

  @property
  def stays(self) -> str:
    """Why it is better left as it is, or '': a rule that is a notation heeds it, and a function may."""
    reasons = {
      'it is the first convolution': self.is_stem,
      'it is the last layer': self.is_final,
      'it is 1x1': set(self.kernel_size) == {1},
      f'it is in {self.groups} groups': self.groups > 1,
    }
    return next((reason for reason, holds in reasons.items() if holds), '')

  def __str__(self) -> str:
    """In words: 'convolution 3x3, 16 to 32, stride 2'."""
    words = [f'{self.kind} {_by(self.kernel_size)}', f'{self.in_features} to {self.out_features}']
    for word, sizes in (('stride', self.strides), ('dilation', self.dilation)):
      if set(sizes) != {1}:
        words.append(f'{word} {sizes[0] if len(set(sizes)) == 1 else _by(sizes)}')
    return ', '.join([*words, *([f'{self.groups} groups'] if self.groups > 1 else [])])


@dataclasses.dataclass(frozen=True)
class Call:
  """A call of a module that returned an array.

  Attributes:
    path: of the module, '' of the whole.
    input_shape: of its first argument that is an array, or ().
    output_shape: of what it returned.
    multiply_adds: of a convolution's or a fully connected layer's own weights, for one example, all steps together.
    can_be_taken: whether the output can be taken out; not so in an `nn.scan`, which has one for each step.
    layer: the convolution that it is, or None.
  """

  path: str
  input_shape: tuple[int, ...]
  output_shape: tuple[int, ...]
  multiply_adds: int = 0
  can_be_taken: bool = False
  layer: ConvLayer | None = None


@dataclasses.dataclass(frozen=True)
class Inspection:
  """What was seen.

  Attributes:
    calls: in the order in which they returned.
    layers: every convolution once, in the order in which they first ran.
    variables: the shapes of all variables.
    multiply_adds: of all convolutions and fully connected layers, for one example.
  """

  calls: tuple[Call, ...]
  layers: tuple[ConvLayer, ...]
  variables: dict[str, Any]
  multiply_adds: int

  def parameters_at(self, path: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters and running statistics below a path, by their own paths; of '' all."""
    shapes = {}
    for collection in ('params', 'batch_stats'):
      for keys, leaf in jax.tree.leaves_with_path(self.variables.get(collection, {})):
        name = '/'.join(str(key.key) for key in keys if isinstance(key, jax.tree_util.DictKey))
        if not path or f'{name}/'.startswith(f'{path}/'):
          shapes[f'{collection}/{name}'] = leaf.shape
    return shapes

  def parameters(self, path: str = '') -> int:
    """How many there are, counted as the paper counts them: with BN's running statistics."""
    return sum(map(math.prod, self.parameters_at(path).values()))


def inspect(module: nn.Module, *args: Any, **kwargs: Any) -> Inspection:
  """Looks at module(*args, **kwargs), whose first array is a batch; arrays may be given as `jax.ShapeDtypeStruct`.

  Raises UserError where there is none.
  """
  mark = f'inspection-{next(_inspections)}-'  # of this one alone: traces are kept
  leaves, treedef = jax.tree.flatten((args, kwargs))
  arrays = {i: leaf for i, leaf in enumerate(leaves) if hasattr(leaf, 'shape') and hasattr(leaf, 'dtype')}
  if not arrays:
    raise UserError(f'{type(module).__name__}: no example to call it with: expected an array or a jax.ShapeDtypeStruct')
  batch = next(iter(arrays.values())).shape[0]
  calls, running = [], []

  def record(call, args, kwargs, context):
    path = '/'.join(context.module.path)
    if context.method_name != '__call__' or path in running:  # a convolution's own call of its superclass, or remat's
      return call(*args, **kwargs)
    if not isinstance(context.module, tuple(KINDS)):
      outputs = call(*args, **kwargs)
    else:
      running.append(path)
      with jax.named_scope(mark):
        outputs = call(*args, **kwargs)
      running.pop()
    if not isinstance(outputs, jax.Array):
      return outputs
    inputs = [each for each in jax.tree.leaves((args, kwargs)) if isinstance(each, jax.Array)]
    calls.append(_describe(context.module, path, inputs[0] if inputs else None, outputs, batch))
    return checkpoint_name(outputs, f'{mark}{len(calls) - 1}')

  def init(key, arrays):
    args, kwargs = treedef.unflatten([arrays.get(i, leaf) for i, leaf in enumerate(leaves)])
    with nn.intercept_methods(record):
      return _Inspected(Unbound(module), mark).init(key, *args, **kwargs)

  jaxpr, variables = jax.make_jaxpr(init, return_shape=True)(jax.random.key(0), arrays)
  return _read(jaxpr.jaxpr, mark, calls, variables, batch)


class _Inspected(nn.Module):
  original: Unbound
  mark: str

  def __call__(self, *args, **kwargs):
    return self.original.bind(self, self.mark)(*args, **kwargs)


def _describe(module, path, inputs, outputs, batch) -> Call:
  """A call as if it ran once; `_read` finds out how often it did."""
  # All collections are mutable during initialisation but those that a transform does not let through.
  call = Call(
    path, () if inputs is None else inputs.shape, outputs.shape, can_be_taken=module.is_mutable_collection(CAPTURED)
  )
  kind = next((kind for each, kind in KINDS.items() if isinstance(module, each)), None)
  if kind is None and not isinstance(module, nn.Dense):
    return call
  kernel_size = _per_axis(module.kernel_size, 1) if kind else ()
  params = nn.meta.unbox(module.variables.get('params', {}))
  rank = len(kernel_size) + 2  # of the kernel, whatever a subclass calls it; a bias has less, submodules are dicts
  weights = sum(leaf.size for leaf in params.values() if not isinstance(leaf, dict) and leaf.ndim == rank)
  # A local convolution has weights for each position; a transposed one uses all its weights at each of its inputs.
  positions = {nn.ConvLocal: outputs.shape[: -rank + 1], nn.ConvTranspose: inputs.shape[:-1]}.get(
    next((each for each in KINDS if isinstance(module, each)), None), outputs.shape[:-1]
  )
  call = dataclasses.replace(call, multiply_adds=math.prod(positions) * weights // batch)
  if kind is None:
    return call
  axes = len(kernel_size)
  return dataclasses.replace(
    call,
    layer=ConvLayer(
      path=path,
      kind=kind,
      kernel_size=kernel_size,
      strides=_per_axis(module.strides, axes),
      dilation=_per_axis(module.kernel_dilation, axes),
      in_features=inputs.shape[-1],
      out_features=module.features,
      groups=getattr(module, 'feature_group_count', 1),
      input_shape=inputs.shape[-axes - 1 :],
      output_shape=outputs.shape[-axes - 1 :],
      masked=module.mask is not None,
      has_batch_stats=module.is_mutable_collection('batch_stats'),
    ),
  )


def _read(jaxpr, mark, calls, variables, batch) -> Inspection:
  """Puts together what the interceptor and the trace know."""
  inspection = Inspection((), (), variables, 0)
  names = {f'{mark}{i}': i for i in range(len(calls))}
  seen, layers, outside = [], {}, collections.Counter()
  stem = final = None
  multiply_adds = 0
  for eqn, runs, inside in _equations(jaxpr, mark):
    layer, index = None, names.get(eqn.params.get('name'))
    if index is not None:
      runs *= eqn.outvars[0].aval.size // math.prod(calls[index].output_shape)  # vmapped
      call = dataclasses.replace(calls[index], multiply_adds=calls[index].multiply_adds * runs)
      seen.append(call)
      multiply_adds += call.multiply_adds
      if call.layer:
        earlier = layers[call.path].multiply_adds if call.path in layers else 0
        layer = dataclasses.replace(
          call.layer, parameters=inspection.parameters(call.path), multiply_adds=earlier + call.multiply_adds
        )
    elif not inside and eqn.primitive.name == 'conv_general_dilated':
      layer = _outside(eqn, runs, batch)
      outside[layer.path] += 1
      layer = dataclasses.replace(layer, path=f'{layer.path} ({outside[layer.path]})')
      multiply_adds += layer.multiply_adds
    elif not inside and eqn.primitive.name == 'dot_general':
      final = None
    if layer:
      layers[layer.path] = layer
      stem, final = stem or layer.path, layer.path
  return dataclasses.replace(
    inspection,
    calls=tuple(seen),
    multiply_adds=multiply_adds,
    layers=tuple(
      dataclasses.replace(layer, is_stem=path == stem, is_final=path == final) for path, layer in layers.items()
    ),
  )


def _equations(jaxpr: Jaxpr, mark: str, runs: int = 1, inside: bool = False) -> Iterator[tuple[JaxprEqn, int, bool]]:
  """All equations with how often they run, and whether inside a marked convolution."""
  for eqn in jaxpr.eqns:
    marked = inside or mark in str(eqn.source_info.name_stack)
    yield eqn, runs, marked
    steps = eqn.params['length'] if eqn.primitive.name == 'scan' else 1
    for inner in jaxprs_in_params(eqn.params):
      yield from _equations(inner, mark, runs * steps, marked)


def _outside(eqn, runs, batch) -> ConvLayer:
  inputs, kernel = (var.aval for var in eqn.invars)
  outputs, numbers = eqn.outvars[0].aval, eqn.params['dimension_numbers']
  out_axis, in_axis, *spatial = numbers.rhs_spec
  positions = outputs.size // outputs.shape[numbers.out_spec[1]]
  return ConvLayer(
    path=str(eqn.source_info.name_stack),
    kind=OUTSIDE,
    kernel_size=tuple(kernel.shape[axis] for axis in spatial),
    strides=tuple(eqn.params['window_strides']),
    dilation=tuple(eqn.params['rhs_dilation']),
    in_features=inputs.shape[numbers.lhs_spec[1]],
    out_features=kernel.shape[out_axis],
    groups=eqn.params['feature_group_count'],
    input_shape=inputs.shape,
    output_shape=outputs.shape,
    multiply_adds=runs
    * positions
    * kernel.shape[in_axis]
    * math.prod(kernel.shape[axis] for axis in (out_axis, *spatial))
    // batch,
  )


def _per_axis(sizes, axes: int) -> tuple[int, ...]:
  return (sizes or 1,) * axes if isinstance(sizes, int | None) else tuple(sizes)


def _by(sizes) -> str:
  return 'x'.join(map(str, sizes))
