"""Inspections of networks: what ran and how often, which convolutions there are, and the variables below a path."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import moonshine_jax
from moonshine_jax.errors import UserError
from moonshine_jax.models.surgery.inspection import inspect_module
from moonshine_jax.models.surgery.layers import OUTSIDE
from tests.helpers.linen_networks import Mixed, Plain, Stubborn

IMAGES = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32)


def test_calls_convolutions_and_parameters_of_a_plain_network():
  inspection = inspect_module(Plain(), IMAGES)
  assert list({call.path: call.output_shape for call in inspection.calls}.items()) == [
    ('stem', (4, 8, 8, 8)),
    ('middle', (4, 4, 4, 16)),
    ('fc', (4, 3)),
    ('', (4, 3)),
  ]
  stem, middle = inspection.layers
  assert (str(stem), str(middle)) == ('convolution 3x3, 3 to 8', 'convolution 3x3, 8 to 16, stride 2')
  assert (stem.is_stem, stem.is_final, middle.is_stem, middle.is_final) == (True, False, False, False)
  assert (middle.input_shape, middle.output_shape) == ((8, 8, 8), (4, 4, 16))
  assert middle.parameters == inspection.parameters('middle') == 9 * 8 * 16 + 16
  assert inspection.parameters_at('fc') == {'params/fc/kernel': (16, 3), 'params/fc/bias': (3,)}
  assert inspection.parameters() == (9 * 3 * 8 + 8) + (9 * 8 * 16 + 16) + (16 * 3 + 3)
  assert inspection.multiply_adds == 64 * 9 * 3 * 8 + 16 * 9 * 8 * 16 + 16 * 3


def test_steps_of_a_scan_are_counted():
  inspection = inspect_module(Mixed(), IMAGES)
  layers = {layer.path: layer for layer in inspection.layers}
  (scanned,) = (path for path in layers if path.startswith('stack'))
  assert layers[scanned].multiply_adds == 3 * 16 * 9 * 16 * 16
  assert layers['shared/Conv_0'].multiply_adds == 2 * 64 * 9 * 8 * 8  # it is called twice


def test_layers_that_are_masked_and_last():
  layers = inspect_module(Stubborn(), IMAGES).layers
  assert [layer.path for layer in layers if layer.masked] == ['masked']
  assert [(layer.is_final, layer.path) for layer in layers][-1] == (True, 'last')


def test_a_convolution_outside_of_linen_has_the_shapes_of_its_arrays():
  (layer,) = (layer for layer in inspect_module(Stubborn(), IMAGES).layers if layer.kind == OUTSIDE)
  assert (layer.kernel_size, layer.strides, layer.in_features, layer.out_features) == ((2, 2), (2, 2), 16, 16)
  assert (layer.input_shape, layer.output_shape) == ((4, 16, 16, 16), (4, 16, 8, 8))
  assert layer.multiply_adds == 8 * 8 * 16 * 2 * 2 * 16 and layer.parameters == 0


def test_every_inspection_marks_its_trace_anew():
  assert inspect_module(Mixed(), IMAGES) == inspect_module(Mixed(), IMAGES)


def test_no_example():
  with pytest.raises(UserError, match='no example'):
    moonshine_jax.cheapen(Plain(), 'G(2)')
  with pytest.raises(UserError, match='Dense: no example to call it with: expected an array or a jax.ShapeDtypeStruct'):
    inspect_module(nn.Dense(2), 'text')
