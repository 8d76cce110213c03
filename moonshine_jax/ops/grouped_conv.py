"""`lax.conv_general_dilated` by the formulation that is fastest for the backend, the groups and the channels.

XLA's grouped convolutions are slower than the dense ones that they replace. Milliseconds of XLA's operation / of the
rule below, medians by `benchmarks/grouped_conv.py`, batch 64, float32, jax 0.10.2, two shared cores of an AMD EPYC:

  3x3 of             forward       input gradient  weight gradient
  32 at 32x32 dense   13.3 / 13.5   13.4 / 13.4       19.1 / 16.8
    4 groups          62.7 / 9.3    61.9 / 13.3      669.2 / 17.2
    16 groups        104.0 / 2.4   107.0 / 2.5      2530.6 / 17.1
    depthwise         65.7 / 1.2    56.8 / 2.0        16.4 / 9.8
  128 at 8x8
    16 groups          8.4 / 3.8     8.2 / 3.9       656.6 / 4.8
    depthwise         14.3 / 0.4    24.0 / 0.6        10.9 / 1.2

The kernel keeps the shape of the plain grouped convolution, (KH, KW, C / groups, O), so no checkpoint depends on the
rule. As a Flax module: `nn.Conv(..., conv_general_dilated=grouped_conv.conv_general_dilated)`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from moonshine_jax.ops.derivatives import is_forward_mode, reverse_mode_alone
from moonshine_jax.ops.formulations import LAX, MATMUL, NHWC, ConvSpec, Formulation, Shape, dilated_extent
from moonshine_jax.ops.merged_conv import merged, number_of_blocks
from moonshine_jax.ops.platforms import is_lax_only
from moonshine_jax.ops.shifted_conv import SHIFTS

# A rule, one for each platform, takes the shape of x (N, H, W, C), that of the kernel and the static part of the
# convolution to a formulation. `python -m benchmarks.grouped_conv` prints what the rules should say.


def cpu_rule(x_shape: Shape, kernel_shape: Shape, conv: ConvSpec) -> Formulation:
  """Returns the formulation for a CPU, as measured.

  The figures are slowdowns against the fastest formulation over the shapes of G and BG, by the last table of
  `benchmarks/grouped_conv.py`. With 1 and 2 channels in a group, the shifts win forward and input gradient in every
  shape (the next best is 2.9 to 5.4 times slower); with 4 they win most (1.3 and 1.2, blocks of 16 channels 1.35 and
  1.4), with 8 none (2.3). The shifts win the weight gradient for depthwise alone. Elsewhere blocks of 16 channels are
  within 1.1 of the fastest forward. In the gradients blocks of 32 are 1.1 to 1.9 times slower there, where one
  convolution has two cores; in a train step, where a device is a core, the two are equally fast, and blocks of 32
  compile in three quarters of the time.
  Larger windows, more than 16 blocks, or wider layers are not measured.
  """
  height, width, inputs, outputs = kernel_shape
  groups = conv.feature_group_count
  if (height, width, groups, conv.padding) == (1, 1, 1, ((0, 0), (0, 0))):
    return MATMUL
  if inputs == 1 and outputs // groups <= 2:
    return SHIFTS
  gradient = merged(number_of_blocks(x_shape[3], groups, least=32))
  if groups > 1 and inputs <= 4 and outputs // groups <= 4 and height * width <= 9:
    return SHIFTS._replace(weight_gradient=gradient.weight_gradient)
  return gradient._replace(forward=merged(number_of_blocks(x_shape[3], groups, least=16)).forward)


def tpu_rule(x_shape: Shape, kernel_shape: Shape, conv: ConvSpec) -> Formulation:
  """Returns the formulation for a TPU: one dense block up to 128 channels, as XLA's compiler estimates.

  The estimates are for a v5e, by `benchmarks/tpu.py`: thousands of cycles of WRN-16-2's train step and (evaluation
  step), bfloat16, batch 128 over 4 devices, XLA's operation / this rule: depthwise 2884 / 2594 (746 / 566), 2 channels
  in a group 6475 / 2771 (2397 / 599), 8 4359 / 2663 (901 / 536), 16 4432 / 2717 (883 / 569), BG(2,M/8) 2310 / 1935
  (544 / 450). Depthwise keeps XLA's weight gradient: with the dense one the step has 2766. Wider layers are not
  estimated, and left to XLA.
  """
  if conv.feature_group_count == 1 or x_shape[3] > 128:
    return LAX
  if kernel_shape[2] == 1:
    return merged(1)._replace(weight_gradient=LAX.weight_gradient)
  return merged(1)


def lax_rule(x_shape: Shape, kernel_shape: Shape, conv: ConvSpec) -> Formulation:
  """Returns XLA's operation, for platforms without a rule: on a GPU ('cuda') no other is known to train faster yet."""
  del x_shape, kernel_shape, conv
  return LAX


RULES = {'cpu': cpu_rule, 'tpu': tpu_rule}


def conv_general_dilated(  # noqa: PLR0913, PLR0917 - the parameters of lax.conv_general_dilated
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  lhs_dilation: Sequence[int] | None = None,
  rhs_dilation: Sequence[int] | None = None,
  dimension_numbers: Any = None,
  feature_group_count: int = 1,
  batch_group_count: int = 1,
  precision: lax.PrecisionLike = None,
  preferred_element_type: jax.typing.DTypeLike | None = None,
  out_sharding: Any = None,
) -> jax.Array:
  """Computes what `lax.conv_general_dilated` computes, with the same arguments, result, dtype and errors.

  The values are the same to float32 rounding. The platform's rule applies to real floating-point images and kernels of
  one dtype, (N, H, W, C) and (KH, KW, C / groups, O), with any stride, padding, `rhs_dilation` and number of groups.
  Everything else (other ranks and layouts, `lhs_dilation`, `batch_group_count`, `preferred_element_type`,
  `out_sharding`) is left to lax.

  Where the rule applies, the two gradients are formulations too (`jax.custom_vjp`): reverse mode works, to the first
  order, under `jit`, `pmap`, `vmap`, `lax.scan` and `jax.checkpoint`, and under `jax.shard_map` with
  `check_vma=False`; forward mode (`jax.jvp`, `jax.hessian`) raises, but inside `derivatives.forward_mode`.

  Args:
    lhs: images, (N, H, W, C) where the rule is to apply.
    rhs: kernel, (KH, KW, C / feature_group_count, O).
    window_strides: steps of the window, one for each spatial axis.
    padding: 'SAME', 'SAME_LOWER', 'VALID', or (low, high) for each spatial axis.
    lhs_dilation: of the images; None is 1.
    rhs_dilation: of the kernel; None is 1.
    dimension_numbers: the layouts; NHWC where the rule is to apply.
    feature_group_count: number of groups.
    batch_group_count: number of groups of the batch.
    precision: of the products.
    preferred_element_type: dtype of the result; None is that of the operands.
    out_sharding: sharding of the result.

  Returns:
    The convolution, (N, H', W', O).
  """
  options = {
    'window_strides': window_strides,
    'padding': padding,
    'lhs_dilation': lhs_dilation,
    'rhs_dilation': rhs_dilation,
    'dimension_numbers': dimension_numbers,
    'feature_group_count': feature_group_count,
    'batch_group_count': batch_group_count,
    'precision': precision,
    'preferred_element_type': preferred_element_type,
    'out_sharding': out_sharding,
  }
  if not _rule_applies(lhs, rhs, options):
    return lax.conv_general_dilated(lhs, rhs, **options)
  with reverse_mode_alone():
    return _conv(lhs, rhs, _spec(lhs.shape, rhs.shape, options))


def _rule_applies(lhs: jax.Array, rhs: jax.Array, options: dict[str, Any]) -> bool:
  """Whether a rule chooses the formulation. Raises what lax raises for arguments that do not fit."""
  out = jax.eval_shape(functools.partial(lax.conv_general_dilated, **options), lhs, rhs)
  layout = lax.conv_dimension_numbers(lhs.shape, rhs.shape, options['dimension_numbers'])
  is_left_to_lax = (
    is_lax_only()
    or is_forward_mode()
    or lhs.ndim != 4
    or layout != lax.conv_dimension_numbers(lhs.shape, rhs.shape, NHWC)
    or any(dilation != 1 for dilation in options['lhs_dilation'] or ())
    or options['batch_group_count'] != 1
    or options['preferred_element_type'] is not None
    or options['out_sharding'] is not None
  )
  has_values = lhs.dtype == rhs.dtype and jnp.issubdtype(lhs.dtype, jnp.floating)
  return not is_left_to_lax and has_values and 0 not in (lhs.size, rhs.size, out.size)


def _spec(x_shape: Shape, kernel_shape: Shape, options: dict[str, Any]) -> ConvSpec:
  """Returns the static part of a convolution to which the rule applies, its padding in numbers."""
  strides, padding = tuple(options['window_strides']), options['padding']
  rhs_dilation = tuple(options['rhs_dilation'] or (1, 1))
  if isinstance(padding, str):
    extents = [dilated_extent(size, dilation) for size, dilation in zip(kernel_shape[:2], rhs_dilation, strict=True)]
    padding = lax.padtype_to_pads(x_shape[1:3], extents, strides, padding)
  padding = tuple((int(low), int(high)) for low, high in padding)
  return ConvSpec(strides, padding, rhs_dilation, options['feature_group_count'], options['precision'])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: jax.Array, kernel: jax.Array, conv: ConvSpec) -> jax.Array:
  return _run('forward', (x.shape, kernel.shape, conv), x, kernel)


def _conv_forward(x: jax.Array, kernel: jax.Array, conv: ConvSpec) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _conv(x, kernel, conv), (x, kernel)


def _conv_backward(
  conv: ConvSpec, residuals: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
  x, kernel = residuals
  shapes = (x.shape, kernel.shape, conv)
  return _run('input_gradient', shapes, dy, kernel), _run('weight_gradient', shapes, x, dy)


_conv.defvjp(_conv_forward, _conv_backward)


# Traced once for each shape (`jit`), not once for each of a network's layers. The platform is not the process's
# default but the one that the computation is lowered for (`platform_dependent`), which decides before XLA compiles,
# so that compiling for a TPU ahead of time on a CPU and exporting give what the device should run.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(part: str, shapes: tuple[Shape, Shape, ConvSpec], *operands: jax.Array) -> jax.Array:
  """Runs `part` of the formulation that the platform's rule chooses; `shapes` are the rule's arguments."""
  x_shape, kernel_shape, conv = shapes
  static: tuple[Any, ...] = {
    'forward': (conv,),
    'input_gradient': (x_shape, conv),
    'weight_gradient': (kernel_shape, conv),
  }[part]

  def run_by(rule: Callable[..., Formulation]) -> Callable[..., jax.Array]:
    formulation = rule(*shapes)
    return lambda *operands: getattr(formulation, part)(*operands, *static)

  return lax.platform_dependent(
    *operands, default=run_by(lax_rule), **{platform: run_by(rule) for platform, rule in RULES.items()}
  )
