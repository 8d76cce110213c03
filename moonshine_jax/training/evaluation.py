"""Evaluation of a network on a whole split."""

import collections
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import ml_collections

from moonshine_jax import config as config_lib
from moonshine_jax.cost import counting
from moonshine_jax.data import feeds, sources, splits
from moonshine_jax.errors import UserError, warn_once
from moonshine_jax.models import factory
from moonshine_jax.models.network import Network
from moonshine_jax.runtime import exchange
from moonshine_jax.runtime.devices import IN_FLIGHT, Replicas
from moonshine_jax.training import step as step_lib
from moonshine_jax.workdir.trained import Trained


def evaluate_feed(
  eval_step: Callable,
  variables: Any,
  feed: feeds.Feed,
  examples: int,
  batch_size: int,
  replicas: Replicas,
  name: str,
) -> dict[str, float]:
  """Evaluates a network on every example of a feed, once, with a compiled step.

  Args:
    eval_step: the compiled step.
    variables: the network's variables, on the devices.
    feed: feed of the split.
    examples: number of examples in the split.
    batch_size: examples in a batch, all of the split at most; rounded up to a multiple of the devices.
    replicas: the devices.
    name: of the network, for the message.

  Returns:
    {'test_error': top-1 error in percent, 'test_loss': mean cross entropy}.

  Raises:
    UserError: where the loss is not finite.
  """
  fetched = sum_over_feed(eval_step, variables, step_lib.NO_EXAMPLES, feed, examples, batch_size, replicas)
  sums = {name: float(value) for name, value in fetched.items()}
  if sums['probabilities'] == sums['examples'] and exchange.is_first():
    warn_once(
      'the network gives probabilities: all its outputs are from 0 to 1, as of a softmax or a sigmoid: expected '
      'logits: leave out the last activation, which the losses compute themselves'
    )
  loss = sums['loss'] / sums['examples']
  if not math.isfinite(loss):
    raise UserError(
      f'{name}: not a number on the test images: test loss {loss}: expected finite logits for every image, of which no '
      'parameter, statistic or activation is too large'
    )
  return {'test_error': 100 * sums['wrong'] / sums['examples'], 'test_loss': loss}


def sum_over_feed(
  step: Callable,
  variables: Any,
  sums: Any,
  feed: feeds.Feed,
  examples: int,
  batch_size: int,
  replicas: Replicas,
  before_batch: Callable[[], None] = lambda: None,
) -> Any:
  """Runs a step over every example of a feed, once, the host at most IN_FLIGHT batches ahead of the devices.

  Args:
    step: the compiled step (variables, data, batch, sums) -> sums over the examples under the mask.
    variables: on the devices.
    sums: with which it begins, host arrays.
    feed: feed of the split.
    examples: number of examples in the split.
    batch_size: examples in a batch, all of the split at most; rounded up to a multiple of the devices.
    replicas: the devices.
    before_batch: called before each batch; what it raises ends the work.

  Returns:
    The sums, host arrays.
  """
  sums = replicas.replicate(sums)
  in_flight: collections.deque[Any] = collections.deque()
  for batch in feed.batches(feeds.masked_batches(examples, replicas.round_up(min(batch_size, examples)))):
    before_batch()
    sums = step(variables, feed.data, batch, sums)
    in_flight.append(sums)
    if len(in_flight) == IN_FLIGHT:
      jax.block_until_ready(in_flight.popleft())
  return replicas.fetch(sums)


def evaluate_split(
  network: Network,
  variables: Any,
  split: splits.Split | splits.CroppedSplit,
  config: ml_collections.ConfigDict,
  replicas: Replicas,
  name: str,
) -> dict[str, float]:
  """Evaluates a network on a split with the config's feed and batch size.

  Args:
    network: the network.
    variables: its variables, host arrays.
    split: evaluated on every example, once.
    config: config of the run.
    replicas: the devices.
    name: of the network, for the message.

  Returns:
    {'test_error': top-1 error in percent, 'test_loss': mean cross entropy}.

  Raises:
    UserError: where the loss is not finite.
  """
  feed = feeds.FEEDS[config.data.feed](split, replicas)
  eval_step = replicas.compile(step_lib.make_eval_step(network, feed.gather, replicas))
  return evaluate_feed(eval_step, replicas.replicate(variables), feed, len(split), config.batch_size, replicas, name)


def evaluate_workdir(
  workdir: str | os.PathLike, data_dir: str | None = None, trust_code: bool = False, data: str | None = None
) -> dict[str, Any]:
  """Evaluates the newest checkpoint of a workdir on its config's test split.

  Args:
    workdir: of a training run; or what stands for one, as `open_workdir` takes it.
    data_dir: where the data is, in place of the config's `data.data_dir`.
    trust_code: whether user-defined functions that the workdir names are loaded, whatever they are: see `Trained.open`.
    data: another name of the same data, in place of the config's `data.name`.

  Returns:
    What was evaluated ('workdir', 'step', 'network', 'block', 'regime', 'data'), 'test_error' in percent, 'test_loss',
    'examples', 'parameters' as the paper counts them, and 'multiply_adds' for one image.

  Raises:
    UserError: where there is no checkpoint or no data, and where the loss is not finite.
  """
  replicas = Replicas()
  trained = exchange.from_first(lambda: Trained.open(workdir, trust_code), replicas)
  trained = trained.with_data(data, data_dir)
  source, config = trained.source(), trained.config
  split = exchange.first_before_others(lambda: source.read(config.data.test_split))
  if not config.data.held_out and trained.facts.test not in ('', sources.fingerprint(split)):
    warn_once(f'{workdir}: evaluated on other test data than in training, under the same name')
  name = f'{workdir}, step {trained.step}'
  result = evaluate_split(trained.network, trained.variables, split, config, replicas, name)
  cost = counting.count_cost(trained.network.model, trained.facts.image_shape)
  return {
    'workdir': str(workdir),
    'step': trained.step,
    'network': factory.network_name(config.model),
    'block': config.model.block,
    'regime': config_lib.regime(config),
    'data': config.data.name,
    **result,
    'examples': len(split),
    'parameters': cost.parameters,
    'multiply_adds': cost.multiply_adds,
  }
