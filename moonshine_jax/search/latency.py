"""What each candidate takes on this machine: the whole network's latency with it and without it."""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from moonshine_jax.cost import latency
from moonshine_jax.models.surgery import places as places_lib
from moonshine_jax.search.space import Choice, Space

TURNS = 100  # a call may take but a millisecond, and the choice is among differences of hundredths


def measure_candidates(space: Space, batch: int) -> np.ndarray:
  """Measures what each candidate takes at each place: for a choice the sum is the network's latency, if that is a sum.

  Places that are alike, of the same module, shapes and candidates, are measured together: a network has the candidate
  at all of them, and each has its share of the difference to the teacher, which is larger so than the noise.

  Args:
    space: the places and candidates.
    batch: images in a call.

  Returns:
    Seconds (places, 1 + candidates), of one device. The first place has what the teacher takes, too.
  """
  module = space.network(space.teacher).model
  alike: dict[Any, list[int]] = {}
  for place, kind in enumerate(places_lib.kinds(module, space.facts.image_shape, space.places)):
    alike.setdefault((kind, *space.fits[place].tolist()), []).append(place)
  choices: dict[Choice, tuple[list[int], int]] = {}
  for places in alike.values():
    for candidate in np.flatnonzero(space.fits[places[0]]).tolist():
      choice = tuple(candidate if place in places else 0 for place in range(len(space.places)))
      choices[choice] = places, candidate
  of_teacher, *of_choices = measure_whole(space, [space.teacher, *choices], batch)
  seconds = np.zeros((len(space.places), 1 + len(space.candidates)))
  for (places, candidate), of_choice in zip(choices.values(), of_choices, strict=True):
    seconds[places, candidate] = (of_choice - of_teacher) / len(places)
  seconds[0] += of_teacher
  return seconds


def measure_beside_teacher(space: Space, choices: Sequence[Choice], batch: int, of_teacher: float) -> list[float]:
  """Measures the latencies of whole networks beside the teacher's, at the speed that the machine had for that.

  The same machine is often faster or slower by half an hour later: what lasts is the ratio to the teacher's latency.

  Args:
    space: the places and candidates.
    choices: the networks.
    batch: images in a call.
    of_teacher: the teacher's latency as it was measured with the candidates'.

  Returns:
    For each network its ratio to the teacher, as measured now, times `of_teacher`; in seconds.
  """
  teacher_now, *now = measure_whole(space, [space.teacher, *choices], batch)
  return [of_teacher * seconds / teacher_now for seconds in now]


def measure_whole(space: Space, choices: Sequence[Choice], batch: int) -> list[float]:
  """Measures the latencies of whole networks, which take turns: the median of each, in seconds, of one device."""
  networks = [(space.network(choice), space.facts.image_shape) for choice in choices]
  measured = latency.measure_network_latencies(networks, TURNS, batch)
  return list(map(statistics.median, measured))
