"""What an inspection says of a network's layers: its convolutions, and the calls of its modules."""

import dataclasses
import inspect
import math
from collections.abc import Sequence
from typing import cast

import flax.linen as nn
import jax
from jax.extend.core import JaxprEqn

KINDS = {nn.ConvTranspose: 'transposed convolution', nn.ConvLocal: 'local convolution', nn.Conv: 'convolution'}
OUTSIDE = 'convolution outside of linen'


@dataclasses.dataclass(frozen=True)
class ConvLayer:
  """A convolution of a network, as a rule for its replacement sees it.

  Attributes:
    path: path of its module, as 'conv2_block1/conv1'; without a module, JAX's name stack.
    kind: one of KINDS, or OUTSIDE: a convolution of `jax.lax` in no linen module, or in one that cannot be intercepted.
    kernel_size, strides, dilation: one number for each spatial axis.
    in_features, out_features: channels.
    groups: number of groups, 1 of a dense convolution.
    input_shape, output_shape: shapes of one example, channels last, at the last call; of OUTSIDE the whole arrays.
    parameters: number of parameters, with the bias if it has one; 0 of OUTSIDE.
    multiply_adds: multiply-adds of all calls, for one example.
    masked: whether its weights are masked.
    dtype: name of the dtype of its output.
    does_more: what its class may do beside a convolution, in words, or ''.
    has_batch_stats: whether running statistics can be kept beside it, as `probe_module` finds; not so in an `nn.scan`
      without 'batch_stats', nor in an `nn.WeightNorm`.
    is_stem: whether it is the first convolution that runs.
    is_final: whether it is the last convolution that runs, and no matrix product follows.
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
  dtype: str = 'float32'
  masked: bool = False
  does_more: str = ''
  has_batch_stats: bool = True
  is_stem: bool = False
  is_final: bool = False

  @property
  def stays(self) -> str:
    """The reason to leave it as it is, or '': a rule that is a notation obeys it, a function may."""
    reasons = {
      'it is the first convolution': self.is_stem,
      'it is the last layer': self.is_final,
      'it is 1x1': set(self.kernel_size) == {1},
      f'it is in {self.groups} groups': self.groups > 1,
    }
    return next((reason for reason, holds in reasons.items() if holds), '')

  def __str__(self) -> str:
    """Describes it in words: 'convolution 3x3, 16 to 32, stride 2'."""
    words = [f'{self.kind} {_join_sizes(self.kernel_size)}', f'{self.in_features} to {self.out_features}']
    for word, sizes in (('stride', self.strides), ('dilation', self.dilation)):
      if set(sizes) != {1}:
        words.append(f'{word} {sizes[0] if len(set(sizes)) == 1 else _join_sizes(sizes)}')
    return ', '.join([*words, *([f'{self.groups} groups'] if self.groups > 1 else [])])


@dataclasses.dataclass(frozen=True)
class Call:
  """A call of a module that returned an array.

  Attributes:
    path: path of the module, '' of the whole network.
    input_shape: shape of its first argument that is an array, or ().
    output_shape: shape of what it returned.
    output_dtype: name of its dtype.
    multiply_adds: multiply-adds of the weights of a convolution or fully connected layer, without its submodules', for
      one example, all steps of a scan together.
    can_be_taken: whether the output can be taken out, as `probe_module` finds; not so in an `nn.scan`, which has one
      for each step.
    layer: the convolution that the module is, or None.
  """

  path: str
  input_shape: tuple[int, ...]
  output_shape: tuple[int, ...]
  output_dtype: str
  multiply_adds: int = 0
  can_be_taken: bool = False
  layer: ConvLayer | None = None


def describe_call(module: nn.Module, path: str, inputs: jax.Array | None, outputs: jax.Array, batch_size: int) -> Call:
  """Describes a call of a bound module as if it ran once.

  Args:
    module: the module.
    path: its path.
    inputs: its first argument that is an array, or None.
    outputs: what it returned.
    batch_size: number of examples.
  """
  call = Call(path, () if inputs is None else inputs.shape, outputs.shape, str(outputs.dtype))
  conv_class = next((conv_class for conv_class in KINDS if isinstance(module, conv_class)), None)
  if conv_class is None and not isinstance(module, nn.Dense):
    return call
  assert inputs is not None  # both compute with their first argument
  kernel_size = _per_axis(module.kernel_size, 1) if conv_class else ()
  params = nn.meta.unbox(module.variables.get('params', {}))
  rank = len(kernel_size) + 2  # of the kernel, whatever a subclass calls it; a bias has less, submodules are dicts
  weights = sum(leaf.size for leaf in params.values() if not isinstance(leaf, dict) and leaf.ndim == rank)
  # A local convolution has weights for each position; a transposed one uses all its weights at each of its inputs.
  positions = outputs.shape[:-1]
  if conv_class is nn.ConvLocal:
    positions = outputs.shape[: -rank + 1]
  elif conv_class is nn.ConvTranspose:
    positions = inputs.shape[:-1]
  call = dataclasses.replace(call, multiply_adds=math.prod(positions) * weights // batch_size)
  if conv_class is None:
    return call
  axes = len(kernel_size)
  return dataclasses.replace(
    call,
    layer=ConvLayer(
      path=path,
      kind=KINDS[conv_class],
      kernel_size=kernel_size,
      strides=_per_axis(module.strides, axes),
      dilation=_per_axis(module.kernel_dilation, axes),
      in_features=inputs.shape[-1],
      out_features=module.features,
      groups=getattr(module, 'feature_group_count', 1),
      input_shape=inputs.shape[-axes - 1 :],
      output_shape=outputs.shape[-axes - 1 :],
      dtype=str(outputs.dtype),
      masked=module.mask is not None,
      does_more=_does_more(module, conv_class),
    ),
  )


def describe_outside(eqn: JaxprEqn, runs: int, batch_size: int) -> ConvLayer:
  """Describes a convolution outside of linen, by its equation in a trace.

  Args:
    eqn: the equation.
    runs: how often it runs.
    batch_size: number of examples.
  """
  inputs, kernel, outputs = (cast(jax.core.ShapedArray, var.aval) for var in (*eqn.invars, eqn.outvars[0]))
  numbers = eqn.params['dimension_numbers']
  out_axis, in_axis, *spatial = numbers.rhs_spec
  positions = outputs.size // outputs.shape[numbers.out_spec[1]]
  weights = kernel.shape[in_axis] * math.prod(kernel.shape[axis] for axis in (out_axis, *spatial))
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
    multiply_adds=runs * positions * weights // batch_size,
  )


def _does_more(module: nn.Module, conv_class: type[nn.Module]) -> str:
  """Returns what a convolution's class may do beside a convolution, or ''."""
  call = type(module).__call__
  # A wrapper of Flax has what it wraps; a wrapper of anybody else may do anything.
  while getattr(call, '__globals__', {}).get('__name__', '').startswith('flax.') and hasattr(call, '__wrapped__'):
    call = call.__wrapped__
  return (
    '' if call is inspect.unwrap(conv_class.__call__) else f'its class {type(module).__name__} has its own __call__'
  )


def _per_axis(sizes: int | Sequence[int] | None, axes: int) -> tuple[int, ...]:
  return (sizes or 1,) * axes if isinstance(sizes, int | None) else tuple(sizes)


def _join_sizes(sizes: Sequence[int]) -> str:
  return 'x'.join(map(str, sizes))
