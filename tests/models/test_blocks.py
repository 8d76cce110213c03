import jax
import numpy as np
import pytest
from flax.linen.initializers import variance_scaling

from moonshine_jax.models.blocks import Block, Convolution, conv_init, fc_init


@pytest.mark.parametrize(
  'notation', ['S', 'S-2x2', 'G(1)', 'G(16)', 'G(N)', 'G(N/8)', 'B(2)', 'BG(2,4)', 'BG(2,M)', 'BG(4,M/16)']
)
def test_notation_round_trip(notation):
  assert str(Block.parse(notation)) == notation


def test_notation_ignores_spaces_and_names_one_group_size_once():
  assert Block.parse(' BG( 2, M/8 ) ') == Block.parse('BG(2,M/8)')
  assert str(Block.parse('G(N/1)')) == 'G(N)'


@pytest.mark.parametrize(
  'notation',
  [
    '',
    'X',
    's',
    'S(2)',
    'S-3x3',
    'G',
    'G()',
    'G(0)',
    'G(-2)',
    'G(2.0)',
    'G(M)',
    'G(M/2)',
    'G(N/0)',
    'G(N/)',
    'G(n)',
    'G(2',
    'G(2))',
    'G(2,2)',
    'B()',
    'B(N)',
    'B(2,2)',
    'BG(2)',
    'BG(2,N)',
    'BG(M,2)',
    'BG(2,2,2)',
    'BG(,2)',
    'G(٣)',
    'G(' + '9' * 5000 + ')',
  ],
)
def test_what_is_no_block_is_refused_with_the_notations(notation):
  with pytest.raises(ValueError, match='is not a block.*expected S, S-2x2, G'):
    Block.parse(notation)


def test_lists_are_split_outside_of_parentheses():
  assert Block.parse_list('S,G(N/8),BG(2,M/8)') == tuple(map(Block.parse, ['S', 'G(N/8)', 'BG(2,M/8)']))


def test_convolutions_of_a_strided_widening_block():
  assert Block.parse('S').convolutions(16, 32, 2) == (Convolution(3, 32, 2), Convolution(3, 32))
  assert Block.parse('G(N/8)').convolutions(16, 32, 2) == (
    Convolution(3, 16, 2, groups=2),
    Convolution(1, 32),
    Convolution(3, 32, groups=4),
    Convolution(1, 32),
  )
  assert Block.parse('BG(2,M/4)').convolutions(16, 64, 2) == (
    Convolution(1, 32),
    Convolution(3, 32, 2, groups=8),
    Convolution(1, 64),
  )


def test_one_group_where_the_fraction_is_below_one():
  assert [each.groups for each in Block.parse('G(N/64)').convolutions(16, 32, 1)] == [1, 1, 1, 1]


@pytest.mark.parametrize(
  ('notation', 'message'),
  [
    ('G(3)', '3 groups do not divide the 16 channels'),
    ('G(N/3)', 'groups of 3 channels do not divide the 16 channels'),
    ('B(3)', '3 does not divide the 32 channels'),
    ('BG(2,3)', '3 groups do not divide the 16 channels'),
    ('G(32)', '32 groups do not divide the 16 channels'),
  ],
)
def test_channels_that_cannot_be_divided(notation, message):
  with pytest.raises(ValueError, match=message):
    Block.parse(notation).convolutions(16, 32, 1)


# Table 1: the parameters of the convolutions and of BN (4 a channel) of a block of N to N channels, k = 3.
TABLE_1 = {
  'S': (lambda n: 2 * n**2 * 9, lambda n: 8 * n),
  'G(4)': (lambda n: 2 * n**2 * (9 / 4 + 1), lambda n: 16 * n),
  'B(2)': (lambda n: n**2 * (9 / 4 + 2 / 2), lambda n: n * (4 + 8 / 2)),
  'B(4)': (lambda n: n**2 * (9 / 16 + 2 / 4), lambda n: n * (4 + 8 / 4)),
  'BG(2,8)': (lambda n: n**2 * (9 / (8 * 4) + 2 / 2), lambda n: n * (4 + 8 / 2)),
}


@pytest.mark.parametrize('notation', TABLE_1)
def test_parameters_of_table_1(notation):
  n, convolutions_formula, bn_formula = 64, *TABLE_1[notation]
  channels, weights, bn_channels = n, 0, 0
  for convolution in Block.parse(notation).convolutions(n, n, 1):
    bn_channels += channels
    weights += convolution.kernel**2 * channels // convolution.groups * convolution.features
    channels = convolution.features
  assert weights == convolutions_formula(n)
  assert 4 * bn_channels == bn_formula(n)


@pytest.mark.parametrize(
  ('init', 'reference', 'shape'),
  [
    (conv_init, variance_scaling(2.0, 'fan_out', 'normal'), (3, 3, 2, 8)),
    (conv_init, variance_scaling(2.0, 'fan_out', 'normal'), (3, 4, 6)),
    (fc_init, variance_scaling(1 / 3, 'fan_in', 'uniform'), (6, 4)),
  ],
)
def test_initial_values_are_drawn_as_by_variance_scaling(init, reference, shape):
  expected = jax.jit(reference, static_argnums=1)(jax.random.key(1), shape)
  np.testing.assert_allclose(init(jax.random.key(1), shape), expected, rtol=1e-6)
