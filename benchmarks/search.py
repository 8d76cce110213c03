"""Compares what a search predicts of mixtures with what they become, and with BlockSwap's Fisher score.

  python -m benchmarks.search --search=runs/search --mixtures=30 --epochs=1 --json=predictions.json
  python -m benchmarks.search --search=runs/search --max_params=60000 --mixtures=10 --epochs=2

Random mixtures of a search's candidates, within a budget if there is one, are put together and tuned equally long by
the teacher's logits. The rank correlation (Spearman) of their held-out error then is printed with what was known
before: the sum of the square roots of the scores, which the search minimises, the sum of the scores, the loss of the
network that was put together, Fisher information, and the parameters.
Beside the random mixtures stand the network that the search chooses within the budget, the best uniform one, and, of
the random ones, that of most Fisher information. What is tuned is kept in the folder of the search: the same command
goes on.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats
from tabulate import tabulate

from benchmarks.command import OneLineParser, add_json, write_json
from moonshine_jax import losses
from moonshine_jax.config import folder_name
from moonshine_jax.errors import RESUME_ME, Preempted, UserError, say
from moonshine_jax.models.network import Network
from moonshine_jax.models.surgery import places as places_lib
from moonshine_jax.runtime import devices
from moonshine_jax.runtime.signals import Signals
from moonshine_jax.search import networks, program
from moonshine_jax.search.run import Search
from moonshine_jax.search.scores import deviations
from moonshine_jax.search.space import Choice
from moonshine_jax.search.store import read_search
from moonshine_jax.workdir.network_file import open_workdir
from moonshine_jax.workdir.workdir import SOLUTIONS_FOLDER

TRIES = 10_000  # draws for each mixture that is wanted, most of which may be beyond the budget
# What is known of a network before it is tuned, and whether more of it stands for less error.
PREDICTORS = {'predicted': False, 'sum': False, 'together': False, 'fisher': True, 'parameters': True}


def main(arguments: list[str] | None = None) -> None:
  """Tunes the mixtures, and prints their table and the correlations."""
  parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--search', required=True, help='folder of a search')
  parser.add_argument('--mixtures', type=int, default=30, help='random mixtures (default: 30)')
  parser.add_argument('--epochs', type=int, default=1, help='epochs in which each is tuned (default: 1)')
  parser.add_argument('--max_params', type=float, help='budget of all of them (default: none)')
  parser.add_argument('--seed', type=int, default=0, help='of the mixtures and the initial parameters (default: 0)')
  parser.add_argument('--data', default='', help='as the search was given it')
  parser.add_argument('--data_dir', default='', help='as the search was given it')
  add_json(parser)
  flags = parser.parse_args(arguments)
  for name, least in (('mixtures', 2), ('epochs', 1)):
    if getattr(flags, name) < least:
      parser.error(f'--{name}={getattr(flags, name)}: expected at least {least}')
  try:
    measure(flags)
  except UserError as error:
    parser.error(str(error))
  except Preempted as preempted:
    say(f'preempted: {preempted}')
    raise SystemExit(RESUME_ME) from preempted


def measure(flags: argparse.Namespace) -> None:
  """Does what the flags say. Raises UserError and Preempted as a search does."""
  teacher, settings = read_search(flags.search)
  settings = dataclasses.replace(settings, data=flags.data, data_dir=flags.data_dir)
  devices.use_all_cores(settings.batch_size or open_workdir(teacher).config.batch_size)
  search = Search(teacher, flags.search, settings)
  rows = compare(search, choose_networks(search, flags), flags)
  columns = ['chosen_by', 'block', *PREDICTORS, 'error']
  print(tabulate([[row[column] for column in columns] for row in rows], columns, floatfmt='.4g'))
  correlations = correlate([row for row in rows if 'random' in row['chosen_by']])
  for name, correlation in correlations.items():
    print(f'rank correlation of the error with {name}: {correlation:.2f}')
  write_json(flags.json, flags, rows, correlations=correlations)


def choose_networks(search: Search, flags: argparse.Namespace) -> dict[Choice, list[str]]:
  """Returns the networks that are compared, each with what chose it."""
  budget = {} if flags.max_params is None else {'parameters': flags.max_params}
  search.check([budget])
  scores, uniform, _, _ = search.store.read_scores()
  chosen: dict[Choice, list[str]] = {
    choice: ['random'] for choice in draw_mixtures(search, budget, flags.mixtures, flags.seed)
  }
  if budget:
    (searched,) = search.choose(scores, budget, 1)
    chosen.setdefault(searched, []).append('search')
    within = [
      (losses_of['kl'], column)
      for column, losses_of in uniform.items()
      if program.is_within(search.space.uniform(column), search.costs, budget)
    ]
    if within:
      chosen.setdefault(search.space.uniform(min(within)[1]), []).append('uniform')
  return chosen


def draw_mixtures(search: Search, budget: dict[str, float], number: int, seed: int) -> list[Choice]:
  """Draws different mixtures at random, each place's block from what the search has; only those within the budget.

  Raises UserError where there are hardly any.
  """
  rng = np.random.default_rng(seed)
  drawn: dict[Choice, None] = {}
  for _ in range(TRIES * number):
    choice = tuple(int(rng.choice(np.flatnonzero(at_place))) for at_place in search.choices)
    if choice != search.space.teacher and program.is_within(choice, search.costs, budget):
      drawn[choice] = None
    if len(drawn) == number:
      break
  if len(drawn) < 2:
    raise UserError(f'{len(drawn)} mixtures within the budget were drawn at random: expected a larger one')
  return list(drawn)


def compare(search: Search, chosen: dict[Choice, list[str]], flags: argparse.Namespace) -> list[dict[str, Any]]:
  """Puts the networks together, tunes them, and returns what was known of each before, and its held-out error."""
  run = search.prepare_run()
  scores, *_ = search.store.read_scores()
  columns = sorted({column for choice in chosen for column in choice} - {0})
  blocks = {column: search.store.block_variables(column, False) for column in columns}
  folder = Path(flags.search) / SOLUTIONS_FOLDER / f'benchmark-{flags.epochs}'
  images, labels = run.test_split.take(np.arange(min(run.batch_size, len(run.test_split))))
  rows = []
  for choice, chosen_by in chosen.items():
    (student,), (variables,) = networks.put_together(run, search.space, [choice], blocks)
    notation = search.space.notation(choice)
    error = networks.tune(student, variables, folder / folder_name(notation), flags.epochs, False).test_error
    with Signals() as signals:
      together = networks.score_network(run, student.network, variables, signals)
    rows.append(
      {
        'chosen_by': ', '.join(chosen_by),
        'block': notation,
        'predicted': program.cost_of(choice, deviations(scores)),
        'sum': program.cost_of(choice, scores),
        'together': together['kl'],
        'fisher': fisher_information(search.space.network(choice), search.space.places, images, labels, flags.seed),
        'parameters': program.cost_of(choice, search.costs['parameters']),
        'error_together': together['error'],
        'error': error,
      }
    )
    print(f'{notation}: held-out error {error:.2f}%', flush=True)
  best = max((row for row in rows if 'random' in row['chosen_by']), key=lambda row: row['fisher'])
  best['chosen_by'] += ', Fisher'
  return rows


def fisher_information(
  network: Network, places: Sequence[str], images: np.ndarray, labels: np.ndarray, seed: int
) -> float:
  """Returns BlockSwap's score of a network at random parameters, from one batch (Turner et al., 2020, section 3.2).

  The sum over the blocks and their channels of half the mean over examples of the square of the activation times its
  gradient, summed over space.
  """
  image_shape = images.shape[1:]
  variables = network.init(jax.random.key(seed), image_shape)

  def loss(added: dict[str, jax.Array], variables: Any, images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    activations: dict[str, jax.Array] = {}

    def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
      outputs = call(*args, **kwargs)
      path = '/'.join(context.module.path)
      if context.method_name != '__call__' or path not in places:
        return outputs
      activations[path] = outputs
      return outputs + added[path]

    with nn.intercept_methods(intercept):
      (logits, _), _ = network(variables, images, train=True, mutable=['batch_stats'])
    return losses.cross_entropy(logits, jnp.asarray(labels)).mean(), activations

  shapes = places_lib.output_shapes(network.model, image_shape, places)
  zeros = {path: jnp.zeros((len(images), *shape)) for path, shape in shapes.items()}
  gradients, activations = jax.jit(jax.grad(loss, has_aux=True))(zeros, variables, jnp.asarray(images))
  return sum(fisher_of_block(activations[path], gradients[path]) for path in places)


def fisher_of_block(activation: jax.Array, gradient: jax.Array) -> float:
  """Returns the Fisher information of one block, from (batch, height, width, channels)."""
  return float(0.5 * jnp.square((activation * gradient).sum((1, 2))).mean(0).sum())


def correlate(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
  """Returns Spearman's rank correlation of the error with each predictor; 1 where a predictor orders all rightly."""
  errors = [row['error'] for row in rows]
  return {
    name: float(stats.spearmanr([-row[name] if more_is_better else row[name] for row in rows], errors).statistic)
    for name, more_is_better in PREDICTORS.items()
  }


if __name__ == '__main__':
  main()
