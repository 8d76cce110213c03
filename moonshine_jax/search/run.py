"""The search: from a teacher and budgets to networks, each stage kept on the disk."""

import copy
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from moonshine_jax.config import folder_name
from moonshine_jax.errors import UserError, say, shown, warn
from moonshine_jax.runtime import user_functions
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.runtime.signals import Signals, preempted_at_once
from moonshine_jax.search import latency, networks, program
from moonshine_jax.search.scores import deviations
from moonshine_jax.search.settings import Settings
from moonshine_jax.search.space import (
  Choice,
  count_costs,
  describe_layers,
  find_choices,
  find_space,
  without_own_layers,
)
from moonshine_jax.search.store import BUDGET_NAMES, Store
from moonshine_jax.training import blockwise, loop, pretrained
from moonshine_jax.training.evaluation import evaluate_split
from moonshine_jax.training.experiment import Experiment, prepare
from moonshine_jax.workdir.trained import Trained
from moonshine_jax.workdir.zoo import absolute_workdir

ADDITIVE = 0.1  # share by which a network's latency may differ from the sum of its blocks' before it is told
Budget = Mapping[str, float]  # the most of some of 'parameters', 'multiply_adds' and 'latency', in seconds


class Search:
  """A search in a folder: what its stages have found so far.

  Attributes:
    teacher: the network that is searched from.
    settings: what it chooses from, and how.
    space: the places and candidates.
    choices: what is chosen from, of candidates that are the same at a place the first; bool (places, 1 + candidates).
    store: its folder.
    costs: (places, 1 + candidates) by name; for a choice the sum is the network's cost.
  """

  def __init__(self, teacher: str | os.PathLike, out: str | os.PathLike, settings: Settings, trust_code: bool = False):
    """Opens the teacher and the folder. Raises UserError where a search from them cannot be run."""
    self.teacher = Trained.open(teacher, trust_code).with_data(settings.data or None, settings.data_dir or None)
    if self.teacher.refusal:
      raise UserError(self.teacher.refusal)
    self.settings = settings
    space = find_space(self.teacher.config.model, self.teacher.facts, settings.candidates)
    layers = describe_layers(space)
    self.space = without_own_layers(space, layers)
    self.store = Store(out, self.teacher, self.space, settings)
    self.costs = {name: costs.astype(float) for name, costs in count_costs(self.space, layers).items()}
    if (seconds := self.store.read_latencies()) is not None:
      self.costs['latency'] = seconds
    self._trust_code = trust_code
    self.choices = find_choices(self.space, layers)
    self._run: Experiment | None = None  # one in which candidates have learnt: for its data and devices

  def check(self, budgets: Sequence[Budget]) -> None:
    """Raises UserError for a budget that is none or that no network is within. Measures latencies first, for such."""
    for budget in budgets:
      if not budget or budget.keys() - BUDGET_NAMES or not all(0 < most < math.inf for most in budget.values()):
        raise UserError(f'{shown(budget)}: expected numbers above 0 of some of {", ".join(BUDGET_NAMES)}')
    if any('latency' in budget for budget in budgets) and 'latency' not in self.costs:
      say('measuring the latency of every candidate at every place')
      self.store.begin()
      begun = time.perf_counter()
      self.costs['latency'] = latency.measure_candidates(self.space, self.settings.latency_batch)
      self.store.write_latencies(self.costs['latency'], time.perf_counter() - begun)
    for budget in budgets:
      if unknown := sorted(budget.keys() - self.costs.keys()):
        raise UserError(f'{", ".join(unknown)}: cannot be counted for this network: expected another budget')
      self.choose(np.zeros(self.choices.shape), budget, 1)

  def learn(self) -> None:
    """Trains the candidates, each block alone, and scores each alone in the teacher, unless that is done."""
    for part in self.store.parts:
      if not self.store.has_scores(part):
        self._learn_part(part)

  def run(self, budgets: Sequence[Budget]) -> list[Path]:
    """Runs all stages, and returns the workdirs of the networks that are found; see `search_blocks`."""
    with preempted_at_once():
      self.check(budgets)
      if not all(program.is_within(self.space.teacher, self.costs, budget) for budget in budgets):
        self.learn()
      return [self.find(budget) for budget in budgets]

  def find(self, budget: Budget) -> Path:
    """Finds the best network within a budget, and returns its workdir; what was found before is not sought again."""
    folder = self.store.network_folder(budget)
    if self.store.is_found(folder):
      return folder
    self.store.begin()
    if program.is_within(self.space.teacher, self.costs, budget):
      say(f'{folder}: the teacher is within the budget: nothing needs to be replaced')
      self._keep(folder, self.space.teacher, self.teacher.variables, budget, [], {})
      return folder
    scores, *_ = self.store.read_scores()
    begun = time.perf_counter()
    settings = self.settings
    choices = self.choose(scores, budget, settings.solutions)
    seconds = {'program': time.perf_counter() - begun}
    solutions, variables = self._try(folder, choices, scores)
    if 'latency' in budget:
      measured = self.measure_whole(choices)
      solutions = [{**each, 'measured_latency': taken} for each, taken in zip(solutions, measured, strict=True)]
    best = choose_best(str(folder), solutions, settings.score, budget)
    seconds['networks'] = time.perf_counter() - begun - seconds['program']
    self._keep(folder, choices[best], variables[best], budget, solutions, seconds)
    return folder

  def measure_whole(self, choices: Sequence[Choice]) -> list[float]:
    """Returns the latencies of whole networks, in seconds, beside the teacher's; each is measured only once."""
    known, names = self.store.read_whole_latencies(), [self.space.notation(choice) for choice in choices]
    left = {name: choice for name, choice in zip(names, choices, strict=True) if name not in known}
    if left:
      of_teacher = program.cost_of(self.space.teacher, self.costs['latency'])
      batch = self.settings.latency_batch
      measured = latency.measure_beside_teacher(self.space, list(left.values()), batch, of_teacher)
      known |= dict(zip(left, measured, strict=True))
      self.store.write_whole_latencies(known)
    return [known[name] for name in names]

  def choose(self, scores: np.ndarray, budget: Budget, solutions: int) -> list[Choice]:
    """Returns so many choices within a budget, by scores (places, 1 + candidates): the least sum of roots first."""
    return program.choose(deviations(scores), self.choices, self.costs, budget, solutions, self.settings.distance)

  def prepare_run(self) -> Experiment:
    """Returns a run of candidates: its data, its devices and the teacher are those of all networks of the search."""
    if self._run is None:
      first = self.store.parts[0]
      self._run = prepare(self._config(first), self.store.run_folder(first), self._trust_code)
    return self._run

  def _config(self, part: Sequence[int]) -> ml_collections.ConfigDict:
    """Returns the config of the run in which some candidates learn."""
    config, settings = copy.deepcopy(self.teacher.config), self.settings
    blocks = [self.space.notation(self.space.uniform(column)) for column in part]
    config.update_from_flattened_dict(
      {
        'epochs': settings.epochs,
        'seed': settings.seed,
        'batch_size': settings.batch_size or config.batch_size,
        'eval_every': settings.epochs,
        'optimizer.ema': 0.0,
        'optimizer.warmup_epochs': 0,
        'data.held_out': settings.held_out,
        'distill.teacher': absolute_workdir(self.teacher.workdir),
        'distill.start': '',
        'distill.blockwise': True,
        'distill.students': tuple(f'block={block}' for block in blocks),
      }
    )
    return config

  def _learn_part(self, part: Sequence[int]) -> None:
    """Trains some candidates, and writes their scores."""
    self.store.begin()
    begun = time.perf_counter()
    self._run = None  # its arrays go before those of the next
    say(f'candidates {", ".join(self.space.candidates[column - 1] for column in part)}')
    self._run = run = prepare(self._config(part), self.store.run_folder(part), self._trust_code)
    loop.train_to_end(run)
    learnt = time.perf_counter()
    with Signals() as signals:
      teacher, alone = networks.score_blocks(run, signals)
      uniform = [
        networks.score_network(run, student.network, run.replicas.fetch(state).variables, signals)
        for student, state in zip(run.students, blockwise.calibrate(run), strict=True)
      ]
    seconds = {'candidates': learnt - begun, 'scores': time.perf_counter() - learnt}
    self.store.write_scores(part, teacher, alone, uniform, seconds)

  def _try(
    self, folder: Path, choices: Sequence[Choice], scores: np.ndarray
  ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Puts networks together, tunes them if asked, and scores them: what is known of each, and its variables."""
    run = self.prepare_run()
    columns = sorted({column for choice in choices for column in choice} - {0})
    blocks = {column: self.store.block_variables(column, self._trust_code) for column in columns}
    solutions, variables = [], []
    for choice in choices:
      (student,), (own,) = networks.put_together(run, self.space, [choice], blocks)
      if epochs := self.settings.tune_epochs:
        where = self.store.solutions_folder(folder) / f'{epochs}-epochs' / folder_name(self.space.notation(choice))
        own = networks.tune(student, own, where, epochs, self._trust_code).variables
      with Signals() as signals:
        measured = networks.score_network(run, student.network, own, signals)
      variables.append(own)
      costs = {name: program.cost_of(choice, costs) for name, costs in self.costs.items()}
      predicted = program.cost_of(choice, deviations(scores))
      solutions.append({'block': self.space.notation(choice), 'predicted': predicted, **measured, **costs})
      say(f'{folder.name}: {self.space.notation(choice)}: held-out error {measured["error"]:.2f}%')
    return solutions, variables

  def _keep(
    self,
    folder: Path,
    choice: Choice,
    variables: dict[str, Any],
    budget: Budget,
    solutions: Sequence[Mapping[str, Any]],
    seconds: Mapping[str, float],
  ) -> None:
    """Evaluates a network on the test split, which has had no part in its choice, and makes its workdir."""
    teacher, config = self.teacher, pretrained.config_of_pretrained(self.teacher.config)
    config.model = self.space.model_of(choice)
    config.data.held_out = 0.0  # the error that is told is of the test split
    split = teacher.source().read(config.data.test_split)
    record = evaluate_split(self.space.network(choice), variables, split, config, Replicas(), str(folder))
    found = {
      'budget': dict(budget),
      'block': config.model.block,
      'choice': list(choice),
      'costs': {name: program.cost_of(choice, costs) for name, costs in self.costs.items()},
      'solutions': list(solutions),
      'seconds': dict(seconds),
      'test': record,
    }
    self.store.write_found(folder, found)
    pretrained.save_network(folder, config, teacher.facts, variables, {'epoch': 0, 'step': 0, **record})
    say(f'{folder}: {self.space.name(choice)}: test error {record["test_error"]:.2f}%')


def search_blocks(
  teacher: str | os.PathLike,
  out: str | os.PathLike,
  budgets: Sequence[Budget],
  settings: Settings | None = None,
  trust_code: bool = False,
) -> list[Trained]:
  """Finds the best mixtures of cheap blocks for a trained network, within budgets.

  Every candidate learns alone, at every place, what the teacher has there, from one pass of the teacher for several
  (see `training.blockwise`). It is scored alone in the teacher on examples that it has not seen. An integer program
  chooses one candidate for each place, with the least sum of the roots of the scores within the budgets; the best
  choices are put together, BN's statistics estimated again, and compared on the same examples. The method is of LANA
  (Molchanov et al., 2022) and Puzzle (Bercovich et al., 2024), but for the roots: see `scores.deviations`.

  Args:
    teacher: workdir of the trained network; or what stands for one, as `open_workdir` takes it.
    out: a folder, made where there is none, for all that the search leaves; called again it goes on there, and finds
      networks for other budgets without training anew.
    budgets: for each network that is sought the most of its 'parameters', its 'multiply_adds', its 'latency' in
      seconds, or several of them.
    settings: what is chosen from, and how.
    trust_code: whether the function of the teacher's network is loaded, whatever it is: see `Trained.open`.

  Returns:
    For each budget the network, as it is in its workdir in the folder.

  Raises:
    UserError: for what cannot be searched, and for a budget that no network is within, before any training.
    Preempted: after SIGTERM or SIGINT; what is done is saved.
  """
  user_functions.check_not_running('search_blocks')
  found = Search(teacher, out, settings or Settings(), trust_code).run(budgets)
  return [Trained.open(workdir, trust_code) for workdir in found]


def choose_best(where: str, solutions: Sequence[Mapping[str, Any]], score: str, budget: Budget) -> int:
  """Returns which of some networks is the best within a budget, and warns of latencies that do not add up.

  Args:
    where: the workdir, for the warnings.
    solutions: what is known of each network, with its 'measured_latency' where the budget has a latency.
    score: the loss that is compared.
    budget: of the networks.
  """
  by_loss = sorted(range(len(solutions)), key=lambda i: solutions[i][score])
  if 'latency' not in budget:
    return by_loss[0]
  within = [i for i in by_loss if solutions[i]['measured_latency'] <= budget['latency']]
  best = (within or sorted(by_loss, key=lambda i: solutions[i]['measured_latency']))[0]
  predicted, measured = solutions[best]['latency'], solutions[best]['measured_latency']
  if not within:
    warn(f'{where}: takes {1e3 * measured:.3f} ms, more than the budget: the least of {len(solutions)} networks')
  if abs(measured - predicted) > ADDITIVE * predicted:
    warn(
      f'{where}: takes {1e3 * measured:.3f} ms, and by the sum of its blocks {1e3 * predicted:.3f} ms: latencies of '
      'blocks do not add up here'
    )
  return best
