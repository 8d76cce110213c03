"""What candidates take, by latencies that are given."""

import ml_collections
import numpy as np
import pytest

from moonshine_jax.data.splits import Facts
from moonshine_jax.search import latency
from moonshine_jax.search.space import find_space


@pytest.fixture
def space():
  """The places of a network with convolutions that must stay."""
  fields = {'network': 'tests.helpers.user:mixed', 'depth': 10, 'width': 1, 'block': 'S', 'dtype': 'float32', 'seed': 0}
  return find_space(ml_collections.ConfigDict(fields), Facts((8, 8, 2), 3, (0.0,) * 2, (1.0,) * 2), ('G(2)',))


def test_a_place_beside_one_that_must_stay_is_measured_alone(space, monkeypatch):
  """Convolutions that are alike, of which some run more than once: no candidate fits all of them."""
  monkeypatch.setattr(latency.places_lib, 'kinds', lambda module, shape, places: ('the same',) * len(places))
  monkeypatch.setattr(
    latency, 'measure_whole', lambda space, choices, batch: [10.0 - sum(choice) for choice in choices]
  )
  seconds = latency.measure_candidates(space, 1)
  assert 0 < space.fits[:, 1].sum() < len(space.places)
  seconds[0] -= 10.0  # what the teacher takes
  np.testing.assert_allclose(seconds, [[0.0, -1.0 * fits] for fits in space.fits[:, 1]])


def test_a_slower_machine_changes_no_latency_beside_the_teacher(space, monkeypatch):
  choices = [space.uniform(1), (*space.uniform(1)[:-1], 0)]
  seconds = dict(zip([space.teacher, *choices], [3.0, 2.4, 3.6], strict=True))
  monkeypatch.setattr(latency, 'measure_whole', lambda space, choices, batch: [seconds[each] for each in choices])
  measured = latency.measure_beside_teacher(space, choices, batch=1, of_teacher=1.0)
  assert measured == pytest.approx([0.8, 1.2])
