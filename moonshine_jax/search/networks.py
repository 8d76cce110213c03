"""The networks of a search: put together from blocks that have learnt alone, scored, tuned, kept."""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from moonshine_jax.errors import Preempted
from moonshine_jax.models.factory import create_network
from moonshine_jax.models.network import Network
from moonshine_jax.models.surgery import places as places_lib
from moonshine_jax.runtime.signals import Signals
from moonshine_jax.search import scores as scores_lib
from moonshine_jax.search.space import Choice, Space
from moonshine_jax.training import blockwise, loop, pretrained, starts
from moonshine_jax.training import step as step_lib
from moonshine_jax.training.evaluation import sum_over_feed
from moonshine_jax.training.experiment import Experiment, prepare
from moonshine_jax.training.step import TrainState
from moonshine_jax.training.students import Student
from moonshine_jax.workdir.trained import Trained
from moonshine_jax.workdir.workdir import Workdir

# How a network that was put together is tuned: by the teacher's logits, and more carefully than from random parameters.
TUNING = {
  'distill.alpha': 1.0,
  'distill.beta': 0.0,
  'distill.ce_weight': -1.0,
  'distill.kd_form': 'hinton',
  'distill.kd_warmup': 0,
  'distill.standardise': False,
  'distill.temperature': 4.0,
  'optimizer.learning_rate': 0.01,
  'optimizer.decay_epochs': (),
  'optimizer.warmup_epochs': 0,
}


def score_blocks(run: Experiment, signals: Signals) -> tuple[dict[str, float], list[dict[str, dict[str, float]]]]:
  """Scores a run's teacher, and every block of its students alone in it, on the held-out examples of the run.

  Returns:
    Of the teacher, and for each student by place: 'kl' from the teacher, 'ce', and 'error' in percent.
  """
  assert run.teacher
  teacher, shape = run.teacher.network, run.teacher.facts.image_shape
  places = [places_lib.find_places(student.network.model, teacher.model, shape) for student in run.students]
  step, begin = scores_lib.make_swap_step(teacher, places, run.test_feed.gather, run.replicas)
  variables = run.replicas.replicate(run.teacher.variables), tuple(state.variables for state in run.states)
  means = _mean_losses(run, step, variables, begin, signals)
  return means['teacher'], [means[str(i)] for i in range(len(places))]


def score_network(
  run: Experiment, network: Network, variables: Mapping[str, Any], signals: Signals
) -> dict[str, float]:
  """Scores a network on the held-out examples of a run: 'kl' from the run's teacher, 'ce', and 'error' in percent."""
  assert run.teacher
  step = scores_lib.make_network_step(run.teacher.network, network, run.test_feed.gather, run.replicas)
  both = run.replicas.replicate((run.teacher.variables, variables))
  return _mean_losses(run, step, both, scores_lib.NO_LOSSES, signals)


def _mean_losses(run: Experiment, step: Callable, variables: Any, begin: Any, signals: Signals) -> Any:
  """Runs a step of `scores` over the held-out examples. Raises Preempted after a signal."""

  def stop_if_asked() -> None:
    if signals.received:
      raise Preempted(f'{signals.received}: what is done is saved: the same command goes on from there')

  examples, compiled = len(run.test_split), run.replicas.compile(step)
  sums = sum_over_feed(compiled, variables, begin, run.test_feed, examples, run.batch_size, run.replicas, stop_if_asked)
  return scores_lib.to_means(sums, examples)


def put_together(
  run: Experiment, space: Space, choices: Sequence[Choice], blocks: Mapping[int, Mapping[str, Any]]
) -> tuple[list[Student], list[dict[str, Any]]]:
  """Puts networks together from their teacher and blocks, and estimates BN's running statistics again.

  Args:
    run: of blocks that have learnt alone: its data, teacher and devices are used.
    space: the places and candidates.
    choices: the networks.
    blocks: for each candidate the variables of a network that has it wherever it fits.

  Returns:
    The networks as students of the run, and their variables, host arrays.
  """
  assert run.teacher
  students, states = [], []
  for choice in choices:
    config = copy.deepcopy(run.students[0].config)
    config.model = space.model_of(choice)
    network = create_network(config.model, run.teacher.facts, run.replicas.axis_name)
    students.append(Student(config, run.students[0].workdir, network, run.teacher.facts, run.steps_per_epoch))
    states.append(_state_of_choice(run, students[-1], space, choice, blocks))
  joined = dataclasses.replace(run, students=students, states=run.replicas.replicate(tuple(states)))
  return students, [run.replicas.fetch(state).variables for state in blockwise.calibrate(joined)]


def _state_of_choice(
  run: Experiment, student: Student, space: Space, choice: Choice, blocks: Mapping[int, Mapping[str, Any]]
) -> TrainState:
  assert run.teacher
  shape, key = student.facts.image_shape, jax.random.key(student.config.seed)
  state = step_lib.create_train_state(student.network, shape, student.optimizer, key, key)
  state = starts.state_of_blocks(run.teacher, student.network, shape, state)
  variables: dict[str, Any] = state.variables
  for path, candidate in zip(space.places, choice, strict=True):
    for collection in variables if candidate else ():
      if learnt := places_lib.subtree(blocks[candidate].get(collection, {}), path):
        variables[collection] = places_lib.with_subtree(variables[collection], path, learnt)
  return state.replace(params=variables['params'], batch_stats=variables.get('batch_stats', {}))


def tune(student: Student, variables: dict[str, Any], folder: Path, epochs: int, trust_code: bool) -> Trained:
  """Trains a network that was put together for some epochs, by its teacher's logits. Returns it as it is then.

  Args:
    student: of `put_together`.
    variables: the student's.
    folder: where its start and its run are kept; what is there already goes on.
    epochs: number of epochs.
    trust_code: see `Trained.open`.
  """
  start, tuned = Workdir((folder / 'start').absolute()), folder / 'tuned'
  if not start.begun:
    config = pretrained.config_of_pretrained(student.config)
    pretrained.save_network(start, config, student.facts, variables, {'epoch': 0, 'step': 0})
  config = copy.deepcopy(student.config)
  config.update_from_flattened_dict(
    {**TUNING, 'epochs': epochs, 'eval_every': epochs, 'distill.blockwise': False, 'distill.start': str(start)}
  )
  loop.train_to_end(prepare(config, tuned, trust_code))
  return Trained.open(tuned, trust_code)
