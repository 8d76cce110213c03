"""What a candidate does to its teacher: the loss on held-out examples when it alone is swapped in."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moonshine_jax import losses
from moonshine_jax.models.network import Network
from moonshine_jax.models.surgery import places as places_lib
from moonshine_jax.models.surgery.places import Place
from moonshine_jax.runtime import devices
from moonshine_jax.runtime.devices import Replicas

# The sums before the first batch: of the predictions from the teacher's, of the network from the labels, and of errors.
NO_LOSSES = {name: np.float32(0) for name in ('kl', 'ce', 'wrong')}


def deviations(scores: np.ndarray) -> np.ndarray:
  """Returns what adds up over the places of a network: the square roots of scores; 0 where a loss has not grown.

  To second order KL is quadratic in what a block changes of the logits, and the changes of several blocks add. LANA and
  Puzzle add the scores themselves, where one place with a large score hides the others: this orders random mixtures
  better (docs/results/search.md).
  """
  return np.sqrt(np.maximum(scores, 0))


def make_swap_step(
  teacher: Network, places: Sequence[Sequence[Place]], gather: Callable, replicas: Replicas
) -> tuple[Callable, dict[str, Any]]:
  """Makes the step that scores a teacher, and every block of some students alone in it.

  Args:
    teacher: the teacher.
    places: for each student, where it differs.
    gather: the feed's.
    replicas: the devices.

  Returns:
    The step (variables, data, batch, sums) -> sums over the examples under the mask, where the variables are (the
    teacher's, one for each student); and the sums with which it begins, {'teacher': {'kl', 'ce', 'wrong': float32},
    student's index: {place: the same}}.
  """
  paths = tuple(dict.fromkeys(place.path for of_student in places for place in of_student))
  tapped = places_lib.tap(teacher, paths)

  def swap_step(variables: Any, data: Any, batch: Any, sums: Any) -> Any:
    of_teacher, of_students = variables
    batch = gather(data, batch)
    expected, _ = teacher(of_teacher, batch['image'], train=False)
    seen = tapped(of_teacher, batch['image'])
    results: dict[str, Any] = {'teacher': _sum_losses(expected, expected, batch)}
    results |= {str(i): {} for i in range(len(places))}
    for path in paths:
      there = [(i, place) for i, of_student in enumerate(places) for place in of_student if place.path == path]
      inputs, outputs = seen[path]
      learnt = [place.evaluate(of_students[i], inputs).astype(outputs.dtype) for i, place in there]
      swapped = places_lib.swap(teacher, path)
      # One after the other, so that what follows a place is compiled once.
      logits = jax.lax.map(lambda outputs: swapped(of_teacher, batch['image'], outputs)[0], jnp.stack(learnt))  # noqa: B023
      for (i, _), of_candidate in zip(there, logits, strict=True):
        results[str(i)][path] = _sum_losses(of_candidate, expected, batch)
    return jax.tree.map(jnp.add, sums, devices.total(results, replicas.axis_name))

  begin: dict[str, Any] = {'teacher': dict(NO_LOSSES)}
  begin |= {str(i): {place.path: dict(NO_LOSSES) for place in of_student} for i, of_student in enumerate(places)}
  return swap_step, begin


def make_network_step(teacher: Network, network: Network, gather: Callable, replicas: Replicas) -> Callable:
  """Makes the step that scores a whole network: as `make_swap_step`, with sums as NO_LOSSES."""

  def network_step(variables: Any, data: Any, batch: Any, sums: Any) -> Any:
    batch = gather(data, batch)
    (expected, _), (logits, _) = (
      of_one(own, batch['image'], train=False) for of_one, own in zip((teacher, network), variables, strict=True)
    )
    return jax.tree.map(jnp.add, sums, devices.total(_sum_losses(logits, expected, batch), replicas.axis_name))

  return network_step


def to_means(sums: Any, examples: int) -> Any:
  """Returns the tree of the sums over so many examples with means: 'kl', 'ce', and 'error' in percent for 'wrong'."""

  def means(of_network: dict[str, np.ndarray]) -> dict[str, float]:
    kl, ce, wrong = (float(of_network[name]) / examples for name in NO_LOSSES)
    return {'kl': kl, 'ce': ce, 'error': 100 * wrong}

  return jax.tree.map(means, sums, is_leaf=lambda tree: 'kl' in tree)


def _sum_losses(logits: jax.Array, expected: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """Sums the losses of a network's logits over the examples under the mask; `expected` are the teacher's logits."""
  labels, mask = batch['label'], batch['mask']
  return {
    'kl': (losses.knowledge_distillation(logits, expected, 1.0, 'hinton') * mask).sum(),
    'ce': (losses.cross_entropy(logits, labels) * mask).sum(),
    'wrong': ((logits.argmax(-1) != labels) * mask).sum(),
  }
