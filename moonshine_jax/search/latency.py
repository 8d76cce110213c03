"""What each candidate takes on this machine: the whole network's latency with it and without it."""

import statistics
from collections.abc import Sequence

import numpy as np

from moonshine_jax.cost import latency
from moonshine_jax.models.surgery import places as places_lib
from moonshine_jax.search.space import Choice, Space


def measure_candidates(space: Space, batch: int) -> np.ndarray:
  """Measures what each candidate takes at each place: for a choice the sum is the network's latency, if that is a sum.

  Places that are alike, of the same module and shapes, are measured together: a network has the candidate at all of
  them, and each has its share of the difference to the teacher, which is larger so than the noise.

  Args:
    space: the places and candidates.
    batch: images in a call.

  Returns:
    Seconds (places, 1 + candidates), of one device. The first place has what the teacher takes, too.
  """
  module = space.network(space.teacher).model
  alike: dict[str, list[int]] = {}
  for place, kind in enumerate(places_lib.kinds(module, space.facts.image_shape, space.places)):
    alike.setdefault(kind, []).append(place)
  choices: dict[Choice, tuple[list[int], int]] = {}
  for places in alike.values():
    for candidate in np.flatnonzero(space.fits[places].all(axis=0)).tolist():
      choice = tuple(candidate if place in places else 0 for place in range(len(space.places)))
      choices[choice] = places, candidate
  of_teacher, *of_choices = measure_whole(space, [space.teacher, *choices], batch)
  seconds = np.zeros((len(space.places), 1 + len(space.candidates)))
  for (places, candidate), of_choice in zip(choices.values(), of_choices, strict=True):
    seconds[places, candidate] = (of_choice - of_teacher) / len(places)
  seconds[0] += of_teacher
  return seconds


def measure_whole(space: Space, choices: Sequence[Choice], batch: int) -> list[float]:
  """Measures the latencies of whole networks, which take turns: the median of each, in seconds, of one device."""
  networks = [(space.network(choice), space.facts.image_shape) for choice in choices]
  measured = latency.measure_network_latencies(networks, batch=batch)
  return list(map(statistics.median, measured))
