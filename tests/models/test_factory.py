"""Networks by name, and with their normalisation by a data set's facts."""

import pytest

from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError
from moonshine_jax.models import factory


@pytest.mark.parametrize(
  ('text', 'name', 'block'),
  [
    ('G(N/8)', 'WRN-40-2', 'G(N/8)'),
    ('WRN-16-1  BG(2,M/8)', 'WRN-16-1', 'BG(2,M/8)'),
    ('ResNet-50', 'ResNet-50', 'S'),
    ('ResNet-18 S,S,G(2),B(2)', 'ResNet-18', 'S,S,G(2),B(2)'),
    ('tests.helpers.user:with_norm', 'with_norm', 'S'),
    ('tests/helpers/user.py:with_norm B(2)', 'with_norm', 'B(2)'),
  ],
)
def test_a_network_by_name(text, name, block):
  config = factory.parse_model(text)
  assert (factory.network_name(config), config.block, config.dtype) == (name, block, 'float32')


@pytest.mark.parametrize(
  'text',
  [
    '',
    'ResNet-19',
    'ResNet-18 G(3)',
    'WRN-11-1 S',
    'tests.helpers.user:none',
    'tests.helpers.user:with_norm X',
    'none.py:network',
  ],
)
def test_what_is_no_network(text):
  with pytest.raises(UserError, match='expected|do not divide|nearest'):
    factory.parse_model(text)


@pytest.mark.parametrize('text', ['WRN-10-1 G(N/8)', 'ResNet-18', 'tests.helpers.user:with_norm'])
def test_a_network_has_the_facts_of_its_data(text):
  facts = Facts((8, 8, 2), 3, mean=(1.0, 2.0), std=(3.0, 4.0))
  config = factory.parse_model(text)
  network = factory.create_network(config, facts, 'batch')
  assert network.model == factory.create_model(config, 3, 'batch', (8, 8, 2)) and network.model.axis_name == 'batch'
  assert (network.mean, network.std) == (facts.mean, facts.std)
