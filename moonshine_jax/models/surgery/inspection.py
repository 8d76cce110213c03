"""What a linen module does with an example, seen from outside and without computing anything.

The module is initialised abstractly under an interceptor that marks the arrays that its modules return. The trace then
shows two things: how often each module runs in truth (the body of an `nn.scan` is traced more often than it stands in
the result, and runs once for each step), and which convolutions are no linen modules.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params

from moonshine_jax.models.surgery.layers import KINDS, Call, ConvLayer, describe_call, describe_outside
from moonshine_jax.models.surgery.tracing import Traceable, new_mark


@dataclasses.dataclass(frozen=True)
class Inspection:
  """The calls, convolutions and variables of a module, as `inspect_module` sees them.

  Attributes:
    calls: calls of modules, in the order in which they returned.
    layers: every convolution once, in the order in which they first ran.
    variables: the shapes of all variables.
    multiply_adds: multiply-adds of all convolutions and fully connected layers, for one example.
  """

  calls: tuple[Call, ...]
  layers: tuple[ConvLayer, ...]
  variables: dict[str, Any]
  multiply_adds: int

  def parameters_at(self, path: str) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the parameters and running statistics below a path, by their paths; of '' all."""
    shapes = {}
    for collection in ('params', 'batch_stats'):
      for keys, leaf in jax.tree.leaves_with_path(self.variables.get(collection, {})):
        # Keys that are not of a dict are inside what flax wraps around an array, as nn.Partitioned.
        name = '/'.join(str(key.key) for key in keys if isinstance(key, jax.tree_util.DictKey))
        if not path or f'{name}/'.startswith(f'{path}/'):
          shapes[f'{collection}/{name}'] = leaf.shape
    return shapes

  def parameters(self, path: str = '') -> int:
    """Counts the parameters below a path as the paper counts them: with BN's running statistics."""
    return sum(map(math.prod, self.parameters_at(path).values()))


def inspect_module(module: nn.Module, *args: Any, **kwargs: Any) -> Inspection:
  """Traces module(*args, **kwargs) and describes its calls, convolutions and variables.

  Args:
    module: any linen module.
    *args: arguments of its call. The first array among them and **kwargs is a batch of examples; arrays may be given
      as `jax.ShapeDtypeStruct`.
    **kwargs: further arguments of its call.

  Raises:
    UserError: where no argument is an array.
  """
  mark = new_mark()
  traceable = Traceable(module, args, kwargs)
  recorder = _Recorder(mark, traceable.batch_size)
  jaxpr, variables = traceable.init(recorder.intercept, mark)
  return _read_trace(jaxpr, mark, recorder.calls, variables, traceable.batch_size)


class _Recorder:
  """Describes the calls of modules as they are traced, and marks what they return in the trace."""

  def __init__(self, mark: str, batch_size: int):
    self.calls: list[Call] = []
    self._mark = mark
    self._batch_size = batch_size
    self._running: list[str] = []  # paths of the convolutions that are running

  def intercept(
    self,
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
  ) -> Any:
    """An interceptor for `nn.intercept_methods`."""
    path = '/'.join(context.module.path)
    # A convolution that is running calls its superclass's __call__; so does nn.remat.
    if context.method_name != '__call__' or path in self._running:
      return call(*args, **kwargs)
    if isinstance(context.module, tuple(KINDS)):
      self._running.append(path)
      with jax.named_scope(self._mark):
        outputs = call(*args, **kwargs)
      self._running.pop()
    else:
      outputs = call(*args, **kwargs)
    if not isinstance(outputs, jax.Array):
      return outputs
    inputs = next((leaf for leaf in jax.tree.leaves((args, kwargs)) if isinstance(leaf, jax.Array)), None)
    self.calls.append(describe_call(context.module, path, inputs, outputs, self._batch_size))
    return checkpoint_name(outputs, f'{self._mark}{len(self.calls) - 1}')


def _read_trace(
  jaxpr: Jaxpr, mark: str, calls: Sequence[Call], variables: dict[str, Any], batch_size: int
) -> Inspection:
  """Puts together what the interceptor and the trace know."""
  inspection = Inspection((), (), variables, 0)
  index_by_name = {f'{mark}{i}': i for i in range(len(calls))}
  calls_that_ran: list[Call] = []
  layers: dict[str, ConvLayer] = {}
  outside = collections.Counter[str]()
  stem = final = None
  multiply_adds = 0
  for eqn, runs, inside in _equations(jaxpr, mark):
    layer, index = None, index_by_name.get(eqn.params.get('name', ''))
    if index is not None:
      call = _call_that_ran(calls[index], eqn, runs)
      calls_that_ran.append(call)
      multiply_adds += call.multiply_adds
      if call.layer:
        earlier = layers[call.path].multiply_adds if call.path in layers else 0
        layer = dataclasses.replace(
          call.layer, parameters=inspection.parameters(call.path), multiply_adds=earlier + call.multiply_adds
        )
    elif not inside and eqn.primitive.name == 'conv_general_dilated':
      layer = describe_outside(eqn, runs, batch_size)
      outside[layer.path] += 1
      layer = dataclasses.replace(layer, path=f'{layer.path} ({outside[layer.path]})')
      multiply_adds += layer.multiply_adds
    elif not inside and eqn.primitive.name == 'dot_general':
      final = None
    if layer:
      layers[layer.path] = layer
      stem, final = stem or layer.path, layer.path
  marked_layers = tuple(
    dataclasses.replace(layer, is_stem=path == stem, is_final=path == final) for path, layer in layers.items()
  )
  return Inspection(tuple(calls_that_ran), marked_layers, variables, multiply_adds)


def _call_that_ran(call: Call, eqn: JaxprEqn, runs: int) -> Call:
  """Returns a call with the multiply-adds of all its runs; `eqn` marks its output, which nn.vmap makes larger."""
  runs_in_vmap = cast(jax.core.ShapedArray, eqn.outvars[0].aval).size // math.prod(call.output_shape)
  return dataclasses.replace(call, multiply_adds=call.multiply_adds * runs * runs_in_vmap)


def _equations(jaxpr: Jaxpr, mark: str, runs: int = 1, inside: bool = False) -> Iterator[tuple[JaxprEqn, int, bool]]:
  """Yields all equations with how often they run, and whether they are inside a marked convolution."""
  for eqn in jaxpr.eqns:
    marked = inside or mark in str(eqn.source_info.name_stack)
    yield eqn, runs, marked
    steps = eqn.params['length'] if eqn.primitive.name == 'scan' else 1
    for inner in jaxprs_in_params(eqn.params):
      yield from _equations(inner, mark, runs * steps, marked)
