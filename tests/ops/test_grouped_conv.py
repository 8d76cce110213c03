"""The grouped convolution against XLA's and a plain NumPy one, in every formulation and by every rule."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from moonshine_jax.ops import grouped_conv
from moonshine_jax.ops.formulations import LAX, MATMUL, NHWC, ConvSpec
from moonshine_jax.ops.merged_conv import merged
from moonshine_jax.ops.shifted_conv import SHIFTS

SAME = ((1, 1), (1, 1))
NONE = ((0, 0), (0, 0))


def numpy_conv(x, kernel, conv):
  """The definition, in float64: one sum for each pixel and group."""
  x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
  x = np.pad(x, ((0, 0), *conv.padding, (0, 0)))
  (height, width, inputs, outputs), groups = kernel.shape, conv.feature_group_count
  (row_stride, column_stride), (row_dilation, column_dilation) = conv.window_strides, conv.rhs_dilation
  y = np.zeros(
    (
      len(x),
      (x.shape[1] - (height - 1) * row_dilation - 1) // row_stride + 1,
      (x.shape[2] - (width - 1) * column_dilation - 1) // column_stride + 1,
      outputs,
    )
  )
  for row, column, group in np.ndindex(y.shape[1], y.shape[2], groups):
    top, left = row * row_stride, column * column_stride
    window = x[
      :,
      top : top + height * row_dilation : row_dilation,
      left : left + width * column_dilation : column_dilation,
      group * inputs : (group + 1) * inputs,
    ]
    of_group = slice(group * outputs // groups, (group + 1) * outputs // groups)
    y[:, row, column, of_group] = np.tensordot(window, kernel[..., of_group], axes=3)
  return y


def operands(x_shape, kernel_shape, conv, dtype=jnp.float32):
  """x, kernel and dy, standard normal, seeded by the shapes."""
  rng = np.random.default_rng([*x_shape, *kernel_shape, conv.feature_group_count])
  x, kernel = (jnp.asarray(rng.standard_normal(shape), dtype) for shape in (x_shape, kernel_shape))
  y = jax.eval_shape(lambda: LAX.forward(x, kernel, conv))
  return x, kernel, jnp.asarray(rng.standard_normal(y.shape), dtype)


def parts(formulation, x, kernel, dy, conv):
  """(y, dx, dkernel) in one compilation."""
  return jax.jit(
    lambda x, kernel, dy: (
      formulation.forward(x, kernel, conv),
      formulation.input_gradient(dy, kernel, x.shape, conv),
      formulation.weight_gradient(x, dy, kernel.shape, conv),
    )
  )(x, kernel, dy)


def differentiated_parts(convolve, x, kernel, dy, conv):
  """(y, dx, dkernel) of a function with the signature of `lax.conv_general_dilated`, by JAX's differentiation."""

  def run(x, kernel, dy):
    y, vjp = jax.vjp(
      lambda x, kernel: convolve(
        x,
        kernel,
        conv.window_strides,
        conv.padding,
        rhs_dilation=conv.rhs_dilation,
        dimension_numbers=NHWC,
        feature_group_count=conv.feature_group_count,
      ),
      x,
      kernel,
    )
    return y, *vjp(dy)

  return jax.jit(run)(x, kernel, dy)


lax_parts = functools.partial(differentiated_parts, lax.conv_general_dilated)
our_parts = functools.partial(differentiated_parts, grouped_conv.conv_general_dilated)


def assert_equal_parts(actual, expected, tolerance=1e-5):
  """Relative to the largest value; shapes and dtypes exactly."""
  for part, expected_part in zip(actual, expected, strict=True):
    assert (part.shape, part.dtype) == (expected_part.shape, expected_part.dtype)
    largest = np.abs(np.asarray(expected_part, np.float64)).max()
    np.testing.assert_allclose(
      np.asarray(part, np.float64), np.asarray(expected_part, np.float64), rtol=0, atol=tolerance * largest
    )


def random_cases(count):
  """Seeded (x_shape, kernel_shape, ConvSpec) over strides, paddings, dilations, groups, kernels, non-square images."""
  rng = np.random.default_rng(2)
  for _ in range(count):
    groups, inputs, outputs = (int(rng.choice(values)) for values in ((1, 2, 3, 4, 8), (1, 2, 3, 4), (1, 2, 3)))
    height, width = (int(k) for k in rng.integers(1, 4, 2))
    image = (int(size) for size in rng.integers(6, 10, 2))
    yield (
      (2, *image, groups * inputs),
      (height, width, inputs, groups * outputs),
      ConvSpec(
        tuple(int(s) for s in rng.integers(1, 4, 2)),
        tuple((int(low), int(high)) for low, high in rng.integers(-1, 3, (2, 2))),
        tuple(int(d) for d in rng.integers(1, 3, 2)),
        groups,
      ),
    )


def formulations(kernel_shape, conv):
  groups = conv.feature_group_count
  yield from (LAX, SHIFTS, *(merged(blocks) for blocks in range(1, groups + 1) if groups % blocks == 0))
  if (*kernel_shape[:2], groups, conv.padding) == (1, 1, 1, NONE):
    yield MATMUL


FIXED_CASES = (
  ((2, 5, 7, 4), (1, 1, 4, 6), ConvSpec((1, 1), NONE, (1, 1), 1)),  # A shortcut of a Wide ResNet,
  ((2, 8, 7, 4), (1, 1, 4, 6), ConvSpec((2, 2), NONE, (1, 1), 1)),  # with stride,
  ((2, 8, 8, 4), (2, 2, 4, 4), ConvSpec((1, 1), SAME, (2, 2), 1)),  # S-2x2,
  ((2, 8, 8, 8), (3, 3, 1, 8), ConvSpec((2, 2), SAME, (1, 1), 8)),  # G(N), depthwise with stride,
  ((2, 8, 8, 8), (3, 3, 2, 8), ConvSpec((2, 2), SAME, (1, 1), 4)),  # G(N/2).
)


@pytest.mark.parametrize('x_shape, kernel_shape, conv', [*FIXED_CASES, *random_cases(4)])
def test_formulations_and_the_rule_of_this_backend_equal_xla(x_shape, kernel_shape, conv):
  x, kernel, dy = operands(x_shape, kernel_shape, conv)
  expected = lax_parts(x, kernel, dy, conv)
  for formulation in formulations(kernel_shape, conv):
    assert_equal_parts(parts(formulation, x, kernel, dy, conv), expected)
  assert_equal_parts(our_parts(x, kernel, dy, conv), expected)


@pytest.mark.parametrize('platform', grouped_conv.RULES)
@pytest.mark.parametrize('channels, groups', [(32, 1), (32, 8), (32, 16), (32, 32), (256, 256)])
def test_the_rule_of_every_backend_equals_xla(platform, channels, groups):
  conv = ConvSpec((1, 1), SAME, (1, 1), groups)
  x, kernel, dy = operands((2, 4, 5, channels), (3, 3, channels // groups, channels), conv)
  formulation = grouped_conv.RULES[platform](x.shape, kernel.shape, conv)
  assert_equal_parts(parts(formulation, x, kernel, dy, conv), lax_parts(x, kernel, dy, conv))


@pytest.mark.parametrize('x_shape, kernel_shape, conv', FIXED_CASES)
def test_equals_numpy(x_shape, kernel_shape, conv):
  x, kernel, dy = operands(x_shape, kernel_shape, conv)
  y, dx, dkernel = our_parts(x, kernel, dy, conv)
  np.testing.assert_allclose(y, numpy_conv(x, kernel, conv), rtol=1e-4, atol=1e-5)
  # The convolution is linear in both operands: its gradients meet <dy, y> = <dx, x> = <dkernel, kernel>.
  inner = np.vdot(np.asarray(dy, np.float64), numpy_conv(x, kernel, conv))
  np.testing.assert_allclose([np.vdot(dx, x), np.vdot(dkernel, kernel)], inner, rtol=1e-4)
  # And in other directions than the operands themselves.
  z, direction = jnp.flip(x, 1), jnp.flip(kernel, 0)
  np.testing.assert_allclose(np.vdot(dx, z), np.vdot(dy, numpy_conv(z, kernel, conv)), rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(
    np.vdot(dkernel, direction), np.vdot(dy, numpy_conv(x, direction, conv)), rtol=1e-3, atol=1e-3
  )


@pytest.mark.parametrize('padding', ['SAME', 'SAME_LOWER', 'VALID'])
def test_padding_by_name(padding):
  x, kernel, _ = operands((2, 7, 8, 4), (3, 2, 1, 4), ConvSpec((1, 1), NONE, (1, 1), 4))
  arguments = {'rhs_dilation': (2, 1), 'dimension_numbers': NHWC, 'feature_group_count': 4}
  assert_equal_parts(
    [grouped_conv.conv_general_dilated(x, kernel, (2, 1), padding, **arguments)],
    [lax.conv_general_dilated(x, kernel, (2, 1), padding, **arguments)],
  )


@pytest.mark.parametrize('groups', [1, 2, 8, 16])
def test_bfloat16_is_float32_rounded_once(groups):
  conv = ConvSpec((1, 1), SAME, (1, 1), groups)
  x, kernel, dy = operands((2, 6, 6, 16), (3, 3, 16 // groups, 16), conv, jnp.bfloat16)
  exact = lax_parts(*(a.astype(jnp.float32) for a in (x, kernel, dy)), conv)
  ours = our_parts(x, kernel, dy, conv)
  assert all(part.dtype == jnp.bfloat16 for part in ours)
  assert_equal_parts([part.astype(jnp.float32) for part in ours], exact, tolerance=2**-8)


def test_float64():
  with jax.enable_x64(True):
    conv = ConvSpec((1, 1), SAME, (1, 1), 4)
    x, kernel, dy = operands((2, 4, 4, 4), (3, 3, 1, 4), conv, jnp.float64)
    assert_equal_parts(our_parts(x, kernel, dy, conv), lax_parts(x, kernel, dy, conv), tolerance=1e-13)


def loss(conv_general_dilated, kernel, x, groups):
  y = conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=NHWC, feature_group_count=groups)
  return jnp.mean(jnp.square(y))


@pytest.mark.parametrize('groups', [1, 2, 16])
def test_gradient_inside_scan_and_checkpoint(groups):
  x, kernel, _ = operands((2, 6, 6, 16), (3, 3, 16 // groups, 16), ConvSpec((1, 1), SAME, (1, 1), groups))

  def descend(conv_general_dilated, checkpoint):
    def step(kernel, x):
      return kernel - jax.grad(checkpoint(lambda k: loss(conv_general_dilated, k, x, groups)))(kernel), ()

    return jax.jit(lambda kernel: lax.scan(step, kernel, jnp.stack([x, 2 * x]))[0])(kernel)

  assert_equal_parts(
    [descend(grouped_conv.conv_general_dilated, jax.checkpoint)], [descend(lax.conv_general_dilated, lambda f: f)]
  )


@pytest.mark.parametrize('groups', [1, 8])
def test_gradient_inside_pmap(groups):
  devices = jax.local_device_count()
  x, kernel, _ = operands((2 * devices, 6, 6, 8), (3, 3, 8 // groups, 8), ConvSpec((1, 1), SAME, (1, 1), groups))

  def gradient(kernel, x):
    return lax.pmean(jax.grad(lambda k: loss(grouped_conv.conv_general_dilated, k, x, groups))(kernel), 'batch')

  actual = jax.pmap(gradient, 'batch', in_axes=(None, 0))(kernel, x.reshape(devices, 2, *x.shape[1:]))
  expected = jax.grad(lambda k: loss(lax.conv_general_dilated, k, x, groups))(kernel)
  assert_equal_parts([actual[-1]], [expected])


def test_as_the_convolution_of_a_flax_module():
  x = operands((2, 8, 8, 16), (1, 1, 16, 1), ConvSpec((1, 1), NONE, (1, 1), 1))[0]
  arguments = {
    'features': 16,
    'kernel_size': (3, 3),
    'strides': 2,
    'padding': 1,
    'feature_group_count': 8,
    'use_bias': False,
  }
  ours = nn.Conv(conv_general_dilated=grouped_conv.conv_general_dilated, **arguments)
  variables = ours.init(jax.random.key(0), x)
  assert variables['params']['kernel'].shape == (3, 3, 2, 16)
  assert_equal_parts([ours.apply(variables, x)], [nn.Conv(**arguments).apply(variables, x)])
  assert ours.apply(variables, x[0]).shape == (4, 4, 16)


@pytest.mark.parametrize(
  'x_shape, kernel_shape, arguments',
  [
    ((2, 4, 8, 8), (4, 2, 3, 3), {'feature_group_count': 2}),  # NCHW, OIHW
    ((2, 9, 4), (3, 2, 4), {'feature_group_count': 2, 'dimension_numbers': ('NHC', 'HIO', 'NHC')}),
    ((2, 8, 8, 4), (3, 3, 2, 4), {'feature_group_count': 2, 'dimension_numbers': NHWC, 'lhs_dilation': (2, 2)}),
    ((2, 8, 8, 4), (3, 3, 4, 4), {'batch_group_count': 2, 'dimension_numbers': NHWC}),
    (
      (2, 8, 8, 4),
      (3, 3, 2, 4),
      {'feature_group_count': 2, 'dimension_numbers': NHWC, 'preferred_element_type': jnp.float32},
    ),
    ((0, 8, 8, 4), (3, 3, 2, 4), {'feature_group_count': 2, 'dimension_numbers': NHWC}),  # No images
  ],
)
def test_everything_else_falls_through_to_lax(x_shape, kernel_shape, arguments):
  rng = np.random.default_rng(0)
  x, kernel = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in (x_shape, kernel_shape))
  strides, padding = (1,) * (x.ndim - 2), [(1, 1)] * (x.ndim - 2)

  def jaxpr(conv_general_dilated):
    convolution = functools.partial(conv_general_dilated, window_strides=strides, padding=padding, **arguments)
    return str(jax.make_jaxpr(convolution)(x, kernel))

  assert jaxpr(grouped_conv.conv_general_dilated) == jaxpr(lax.conv_general_dilated)


@pytest.mark.parametrize('kernel_shape, groups', [((3, 3, 2, 4), 1), ((3, 3, 2, 5), 2), ((3, 3, 1, 4), 3)])
def test_shapes_that_do_not_fit_are_refused_as_by_lax(kernel_shape, groups):
  x, kernel = jnp.ones((1, 4, 4, 4)), jnp.ones(kernel_shape)
  with pytest.raises((ValueError, TypeError)) as expected:
    lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=NHWC, feature_group_count=groups)
  with pytest.raises(expected.type) as refused:
    grouped_conv.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=NHWC, feature_group_count=groups)
  assert str(refused.value) == str(expected.value)
