"""A network with cheap convolutions in place of some of its convolutions; the network's source stays as it is.

A convolution of kernel k becomes what a unit of the paper's block (Table 1) has in its place:

| notation  | in place of a k convolution of C to N channels                            | below its path         |
|-----------|---------------------------------------------------------------------------|------------------------|
| `G(g)`    | k in g groups (C to C), BN, ReLU, 1x1 (C to N)                            | grouped, bn, pointwise |
| `B(b)`    | 1x1 (C to M = N/b), BN, ReLU, k (M to M), BN, ReLU, 1x1 (M to N)          | contract, bn1, middle, |
| `BG(b,g)` | as `B(b)`, the k in g groups                                              |   bn2, expand          |
| `S-2x2`   | 2 taps for k, dilated to the same extent, along each axis of more than 2  | kernel, bias           |

The k convolution keeps strides, padding and dilations, the last convolution the bias. `N` and `M` in a number of groups
are the channels that the grouped convolution sees, in this table C and M. A `B` takes the place of one convolution in
this module, and of two in a residual block of `models.blocks`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from moonshine_jax.models.blocks import BatchNormReLU, Block, Convolution, conv_init
from moonshine_jax.models.surgery.intercept import Unbound, adapt, capture, with_attributes


class Cheap(nn.Module):
  """A network with some of its convolutions replaced, called as the original is called, by `__call__` alone.

  The BN of the replacements uses and updates the statistics of the batch where 'batch_stats' is mutable, and the
  running statistics elsewhere.

  Attributes:
    original: the network.
    replacements: (path, notation) of each convolution that is replaced.
    axis_name: the pmapped axis over which all BN takes its batch statistics, or None; see `intercept.adapt`.
  """

  original: Unbound
  replacements: tuple[tuple[str, str], ...]
  axis_name: str | None = None

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    """Calls the network with its replacements; arguments and result are the original's."""
    blocks = {path: Block.parse(notation) for path, notation in self.replacements}

    def substitute(
      call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: nn.module.InterceptorContext
    ) -> Any:
      module = context.module
      if not isinstance(module, nn.Conv) or context.method_name != '__call__':
        return call(*args, **kwargs)
      block = blocks.get('/'.join(module.path[len(self.path) :]))
      if block is None:
        return call(*args, **kwargs)
      if block.kind == 'S-2x2':
        with with_attributes(module, **_two_taps(module)):
          return call(*args, **kwargs)
      outputs = _run_replacement(block, module, *args, **kwargs)
      capture(module, outputs)
      return outputs

    original = self.original.bind(self, f'{self.replacements} {self.axis_name}')
    with nn.intercept_methods(adapt(self.axis_name)), nn.intercept_methods(substitute):
      return original(*args, **kwargs)


def kxk_convolution(block: Block, in_features: int, out_features: int) -> Convolution:
  """Returns the kxk convolution of a G, B or BG unit. Raises ValueError where groups do not divide the channels."""
  if block.kind == 'G':
    return block.convolutions(in_features, in_features, 1)[0]
  return block.convolutions(in_features, out_features, 1)[1]


def _two_taps(conv: nn.Conv) -> dict[str, Any]:
  """Returns the attributes with which a kernel has 2 taps at its ends; an axis of 2 taps or fewer stays as it is."""
  kernel = (conv.kernel_size,) if isinstance(conv.kernel_size, int) else tuple(conv.kernel_size)
  dilation = conv.kernel_dilation or 1
  dilation = (dilation,) * len(kernel) if isinstance(dilation, int) else tuple(dilation)
  return {
    'kernel_size': tuple(min(k, 2) for k in kernel),
    'kernel_dilation': tuple(max(k - 1, 1) * d for k, d in zip(kernel, dilation, strict=True)),
    'kernel_init': _allow_any_shape(conv.kernel_init),
  }


def _run_replacement(block: Block, conv: nn.Conv, inputs: jax.Array) -> jax.Array:
  """Runs what stands in a convolution's place: clones of it as submodules, with only some attributes changed."""
  train = conv.is_mutable_collection('batch_stats') and not conv.is_initializing()
  kxk = kxk_convolution(block, inputs.shape[-1], conv.features)
  kxk_changes: dict[str, Any] = {'features': kxk.features, 'feature_group_count': kxk.groups}
  axes = 1 if isinstance(conv.kernel_size, int) else len(conv.kernel_size)
  one_by_one: dict[str, Any] = {
    'kernel_size': (1,) * axes,
    'strides': 1,
    'padding': 'VALID',
    'input_dilation': 1,
    'kernel_dilation': 1,
    'feature_group_count': 1,
  }

  def convolve_bn_relu(conv_name: str, bn_name: str, inputs: jax.Array, **changes: Any) -> jax.Array:
    inner = conv.clone(parent=conv, name=conv_name, use_bias=False, kernel_init=conv_init, **changes)
    return BatchNormReLU(parent=conv, name=bn_name)(inner(inputs), train)

  if block.kind == 'G':
    x, last = convolve_bn_relu('grouped', 'bn', inputs, **kxk_changes), 'pointwise'
  else:
    x = convolve_bn_relu('contract', 'bn1', inputs, features=kxk.features, **one_by_one)
    x, last = convolve_bn_relu('middle', 'bn2', x, **kxk_changes), 'expand'
  # BN undoes the scale of the other convolutions, whatever it is; the network's author chooses that of the last one.
  return conv.clone(parent=conv, name=last, kernel_init=_allow_any_shape(conv.kernel_init), **one_by_one)(x)


def _allow_any_shape(kernel_init: Callable[..., Any]) -> Callable[..., Any]:
  """Returns an initialiser that uses `conv_init` where `kernel_init` does not give the shape that it is asked for.

  An initialiser of pretrained weights gives the shape of the original, or fails, whatever it is asked for.
  """

  def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Any:
    try:
      kernel = kernel_init(key, shape, dtype)
    except Exception:  # of any kind; for the shape of the original it did not fail
      return conv_init(key, shape, dtype)
    return kernel if jnp.shape(nn.meta.unbox(kernel)) == tuple(shape) else conv_init(key, shape, dtype)

  return init
