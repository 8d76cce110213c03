"""What a candidate does to its teacher: the loss on held-out examples when it alone is swapped in."""

import collections
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moonshine_jax import losses
from moonshine_jax.data import feeds
from moonshine_jax.errors import Preempted
from moonshine_jax.models.network import Network
from moonshine_jax.models.surgery import places as places_lib
from moonshine_jax.runtime import devices
from moonshine_jax.runtime.devices import IN_FLIGHT, Replicas
from moonshine_jax.runtime.signals import Signals

# The sums before the first batch: of the predictions from the teacher's, of the network from the labels, and of errors.
NO_LOSSES = {name: np.float32(0) for name in ('kl', 'ce', 'wrong')}


def make_swap_step(
  teacher: Network, students: Sequence[Network], image_shape: Sequence[int], gather: Callable, replicas: Replicas
) -> Callable:
  """Makes the step that scores every block of some students, alone in their teacher.

  Args:
    teacher: the teacher.
    students: networks with other blocks.
    image_shape: (height, width, channels).
    gather: the feed's.
    replicas: the devices.

  Returns:
    (variables, data, batch, sums) -> sums over the examples under the mask, where the variables are (the teacher's,
    one for each student), and the sums {student's index: {place: {'kl', 'ce', 'wrong': float32}}}.
  """
  places = [places_lib.find_places(student.model, teacher.model, image_shape) for student in students]
  paths = tuple(dict.fromkeys(place.path for of_student in places for place in of_student))
  tapped = places_lib.tap(teacher, paths)

  def swap_step(variables: Any, data: Any, batch: Any, sums: Any) -> Any:
    of_teacher, of_students = variables
    batch = gather(data, batch)
    expected, _ = teacher(of_teacher, batch['image'], train=False)
    seen = tapped(of_teacher, batch['image'])
    results: dict[str, Any] = {str(i): {} for i in range(len(students))}
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

  return swap_step


def no_sums(students: Sequence[Network], teacher: Network, image_shape: Sequence[int]) -> dict[str, Any]:
  """Returns the sums with which the steps of `make_swap_step` begin."""
  return {
    str(i): {place.path: dict(NO_LOSSES) for place in places_lib.find_places(student.model, teacher.model, image_shape)}
    for i, student in enumerate(students)
  }


def make_network_step(teacher: Network, network: Network, gather: Callable, replicas: Replicas) -> Callable:
  """Makes the step that scores a whole network: as `make_swap_step`, with sums {'kl', 'ce', 'wrong'}."""

  def network_step(variables: Any, data: Any, batch: Any, sums: Any) -> Any:
    batch = gather(data, batch)
    (expected, _), (logits, _) = (
      of_one(own, batch['image'], train=False) for of_one, own in zip((teacher, network), variables, strict=True)
    )
    return jax.tree.map(jnp.add, sums, devices.total(_sum_losses(logits, expected, batch), replicas.axis_name))

  return network_step


def mean_losses(
  step: Callable,
  variables: Any,
  sums: Any,
  feed: feeds.Feed,
  examples: int,
  batch_size: int,
  replicas: Replicas,
  signals: Signals,
) -> Any:
  """Runs a step over every example of a feed, once.

  Args:
    step: of `make_swap_step` or `make_network_step`, compiled.
    variables: the step's, on the devices.
    sums: with which it begins.
    feed: of the held-out examples.
    examples: their number.
    batch_size: examples in a batch.
    replicas: the devices.
    signals: asked before each batch.

  Returns:
    The tree of the sums, with means in their place: 'kl', 'ce', and 'error' in percent for 'wrong'.

  Raises:
    Preempted: after a signal.
  """
  sums = replicas.replicate(sums)
  in_flight: collections.deque[Any] = collections.deque()
  for batch in feed.batches(feeds.masked_batches(examples, replicas.round_up(min(batch_size, examples)))):
    if signals.received:
      raise Preempted(f'{signals.received}: what is done is saved: the same command goes on from there')
    sums = step(variables, feed.data, batch, sums)
    in_flight.append(sums)
    if len(in_flight) == IN_FLIGHT:
      jax.block_until_ready(in_flight.popleft())

  def means(of_network: dict[str, np.ndarray]) -> dict[str, float]:
    kl, ce, wrong = (float(of_network[name]) / examples for name in NO_LOSSES)
    return {'kl': kl, 'ce': ce, 'error': 100 * wrong}

  return jax.tree.map(means, replicas.fetch(sums), is_leaf=lambda tree: 'kl' in tree)


def _sum_losses(logits: jax.Array, expected: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
  """Sums the losses of a network's logits over the examples under the mask; `expected` are the teacher's logits."""
  labels, mask = batch['label'], batch['mask']
  return {
    'kl': (losses.knowledge_distillation(logits, expected, 1.0, 'hinton') * mask).sum(),
    'ce': (losses.cross_entropy(logits, labels) * mask).sum(),
    'wrong': ((logits.argmax(-1) != labels) * mask).sum(),
  }
