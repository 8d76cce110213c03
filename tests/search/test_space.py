"""Places, candidates and costs, against the networks counted whole."""

import ml_collections
import pytest

from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError
from moonshine_jax.models import factory
from moonshine_jax.search import space as space_lib

FACTS = Facts((16, 16, 3), 10, (120.0,) * 3, (60.0,) * 3)


def model(network='wide_resnet', depth=16, width=1, block='S'):
  return ml_collections.ConfigDict(
    {'network': network, 'depth': depth, 'width': width, 'block': block, 'dtype': 'float32', 'seed': 0}
  )


def test_the_paper_s_candidates():
  assert len(space_lib.PAPER_CANDIDATES) == 22 and 'S' not in space_lib.PAPER_CANDIDATES


def test_places_and_what_fits_them():
  space = space_lib.find_space(model(), FACTS, ['G(N/8)', 'BG(2,16)', 'G(24)', 'S', 'G( N/8 )'])
  assert space.places == tuple(f'conv{group}_block{i}' for group in (2, 3, 4) for i in (1, 2))
  assert space.candidates == ('G(N/8)', 'BG(2,16)', 'G(24)', 'S') and space.own == ('S',) * 6
  # The bottleneck of conv2 has 8 channels; 24 divides nothing; S is there already; and no column is the teacher's own.
  assert space.fits.T.tolist() == [[False] * 6, [True] * 6, [False] * 2 + [True] * 4, [False] * 6, [False] * 6]
  assert space.notation(space.uniform(2)) == 'S,S,BG(2,16),BG(2,16),BG(2,16),BG(2,16)'
  assert space.notation(space.uniform(1)) == 'G(N/8)' and space.notation(space.teacher) == 'S'


def test_what_is_the_same_network_at_a_place_is_chosen_from_once():
  """The bottlenecks of WRN-16-1 have 8, 16 and 32 channels."""
  space = space_lib.find_space(model(), FACTS, ['B(2)', 'BG(2,M/8)', 'BG(2,2)', 'BG(2,M/16)', 'B(2)'])
  choices = space_lib.find_choices(space, space_lib.describe_layers(space))
  assert choices[:, :2].all() and space.candidates == ('B(2)', 'BG(2,M/8)', 'BG(2,2)', 'BG(2,M/16)')
  by_group = choices[::2, 2:].tolist()
  assert by_group == [[False, True, False], [True, False, False], [True, True, False]]
  assert space.fits[:, 1:].all()


def test_what_is_the_teacher_s_own_block_by_another_notation_does_not_fit():
  facts = Facts((32, 32, 3), 10, (120.0,) * 3, (60.0,) * 3)
  space = space_lib.find_space(model('resnet', 50), facts, ['B(4)', 'B(2)', 'BG(4,8)', 'G(8)'])
  assert space.fits[:, 1:].all()  # by their notations
  fits = space_lib.without_own_layers(space, space_lib.describe_layers(space)).fits
  assert not fits[:, :2].any() and fits[:, 2:].all()

  space = space_lib.find_space(model('resnet', 50), facts, ['B(4)'])
  with pytest.raises(UserError, match=r'^--candidates=B\(4\): each is what ResNet-50 has'):
    space_lib.without_own_layers(space, space_lib.describe_layers(space))


def test_a_teacher_that_is_cheap_already():
  space = space_lib.find_space(model(block='S,B(2),G(2)', depth=10), FACTS, ['B(2)'])
  assert space.own == ('S', 'B(2)', 'G(2)') and space.fits[:, 1].tolist() == [True, False, True]
  assert space.name((1, 0, 0)) == 'WRN-10-1 B(2),B(2),G(2)'


@pytest.mark.parametrize(
  ('config', 'choices'),
  [
    (model(depth=10, width=2), [(0, 0, 0), (1, 2, 0), (2, 1, 1)]),
    (model('resnet', 18), [(0,) * 8, (2, 0, 1, 0, 0, 1, 2, 0)]),
    (model('tests.helpers.user:with_norm'), [(0, 0), (2, 0), (1, 2)]),
  ],
  ids=['WRN', 'ResNet', 'function'],
)
def test_costs_add_up_to_those_of_the_whole_network(config, choices):
  space = space_lib.find_space(config, FACTS, ['G(2)', 'B(2)'])
  costs = space_lib.count_costs(space, space_lib.describe_layers(space))
  for choice in choices:
    assert {name: of_place[range(len(choice)), choice].sum() for name, of_place in costs.items()} == (
      space_lib.count_whole(space, choice)
    )


def test_convolutions_that_run_more_than_once_stay():
  space = space_lib.find_space(model('tests.helpers.user:mixed'), FACTS, ['G(2)'])
  stay = {path for path, fits in zip(space.places, space.fits[:, 1], strict=True) if not fits}
  assert {path.split('/')[0] for path in stay} == {'shared', 'stack'}
  assert space.fits[:, 1].any() and factory.network_name(space.model) == 'mixed'


@pytest.mark.parametrize(
  ('config', 'candidates', 'message'),
  [
    (model(), ['G(24)'], r'^--candidates=G\(24\): none of them fits a place of WRN-16-1'),
    (model(), ['X'], "^--candidates: 'X' is not a block"),
    (model('tests.helpers.user:with_norm', block='B(2)'), [], r'^--teacher: its convolutions are B\(2\) already'),
  ],
)
def test_what_cannot_be_searched(config, candidates, message):
  with pytest.raises(UserError, match=message):
    space_lib.find_space(config, FACTS, candidates)
