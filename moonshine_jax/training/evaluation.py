"""Evaluation of a network on a whole split."""

import collections
from collections.abc import Callable
from typing import Any

import jax
import ml_collections

from moonshine_jax import config
from moonshine_jax.cost import counting
from moonshine_jax.data import feeds, sources, splits
from moonshine_jax.models import factory
from moonshine_jax.models.network import Network
from moonshine_jax.runtime import exchange
from moonshine_jax.runtime.devices import IN_FLIGHT, Replicas
from moonshine_jax.training import evaluation
from moonshine_jax.training import step as step_lib
from moonshine_jax.workdir import checkpoint


def evaluate_feed(
  eval_step: Callable,
  variables: Any,
  feed: feeds.Feed,
  examples: int,
  batch_size: int,
  replicas: Replicas,
) -> dict[str, float]:
  """Evaluates every example once.

  Args:
    eval_step: the compiled step.
    variables: the network's, on the devices.
    feed: of the split.
    examples: in the split.
    batch_size: rounded up to a multiple of the devices.
    replicas: of the step.

  Returns:
    {'test_error': top-1 error in percent, 'test_loss': mean cross entropy}.
  """
  batches = feeds.masked_batches(examples, replicas.round_up(batch_size))
  sums = replicas.replicate(step_lib.NO_EXAMPLES)
  in_flight = collections.deque()
  for batch in feed.batches(batches):
    sums = eval_step(variables, feed.data, batch, sums)
    in_flight.append(sums)
    if len(in_flight) == IN_FLIGHT:
      jax.block_until_ready(in_flight.popleft())
  sums = {name: float(value) for name, value in replicas.fetch(sums).items()}
  return {'test_error': 100 * sums['wrong'] / sums['examples'], 'test_loss': sums['loss'] / sums['examples']}


def evaluate_split(
  network: Network,
  variables: Any,
  split: splits.Split,
  config: ml_collections.ConfigDict,
  replicas: Replicas,
) -> dict[str, float]:
  """As `evaluate_feed`, of a network with its host arrays, by the feed and the batch size of a config."""
  feed = feeds.FEEDS[config.data.feed](split, replicas)
  eval_step = replicas.compile(step_lib.make_eval_step(network, feed.gather, replicas))
  return evaluate_feed(eval_step, replicas.replicate(variables), feed, len(split), config.batch_size, replicas)


def evaluate_workdir(workdir: str, data_dir: str | None = None) -> dict[str, Any]:
  """Evaluates the newest checkpoint of a workdir on its config's test split.

  Returns:
    What was evaluated ('workdir', 'step', 'network', 'block', 'regime', 'data'), 'test_error' in percent, 'test_loss',
    'examples', 'parameters' as the paper counts them, and 'multiply_adds' for one image.

  Raises:
    UserError: where there is no checkpoint or no data.
  """
  replicas = Replicas()
  variables, metadata = exchange.from_first(lambda: checkpoint.Checkpoints(workdir).network()[1:], replicas)
  network = metadata.network
  run, facts = metadata.config, metadata.facts
  if data_dir is not None:
    run.data.data_dir = data_dir
  source = sources.reopen_source(run.data, facts, workdir)
  split = exchange.first_before_others(lambda: source.read(run.data.test_split))
  result = evaluation.evaluate_split(network, variables, split, run, replicas)
  counted = counting.count_cost(network.model, facts.image_shape)
  return {
    'workdir': str(workdir),
    'step': metadata.step,
    'network': factory.network_name(run.model),
    'block': run.model.block,
    'regime': config.regime(run),
    'data': run.data.name,
    **result,
    'examples': len(split),
    'parameters': counted.parameters,
    'multiply_adds': counted.multiply_adds,
  }
