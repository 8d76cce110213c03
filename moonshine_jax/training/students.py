"""The students of a run: their networks, and what is read from and written into their workdirs."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
import optax

from moonshine_jax import config as config_lib
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError, warn
from moonshine_jax.models.network import Network
from moonshine_jax.runtime import exchange, files
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.runtime.seeds import split_seed
from moonshine_jax.training import optimizer
from moonshine_jax.training import step as step_lib
from moonshine_jax.training.step import TrainState
from moonshine_jax.workdir.checkpoint import Checkpoints, DamagedError, NoCheckpoints
from moonshine_jax.workdir.metrics import NoWriter, Writer
from moonshine_jax.workdir.workdir import AVERAGE_FOLDER, Workdir


@dataclasses.dataclass
class Student:
  """A network that is trained.

  Attributes:
    config: the student's config, as if it were trained alone.
    workdir: where it is kept.
    network: the student for the devices of the run.
    facts: facts of the data, with the normalisation of its images.
    steps_per_epoch: number of training steps in an epoch.
    start: from the state with random parameters to the one in which it begins.
    checkpoints: its checkpoints, once the workdir is opened in the first process.
    writer: of its metrics, once the workdir is opened.
    epoch_metrics: (steps,) by name, of the steps of the present epoch that the host has heard of.
  """

  config: ml_collections.ConfigDict
  workdir: Workdir
  network: Network
  facts: Facts
  steps_per_epoch: int
  start: Callable[[TrainState], TrainState] = lambda state: state
  checkpoints: Checkpoints | NoCheckpoints = dataclasses.field(default_factory=NoCheckpoints)
  writer: Writer | NoWriter = dataclasses.field(default_factory=lambda: NoWriter([]))
  epoch_metrics: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def learning_rate(self) -> optax.Schedule:
    """The learning rate by step."""
    return optimizer.create_learning_rate_fn(self.config, self.steps_per_epoch)

  @functools.cached_property
  def optimizer(self) -> optax.GradientTransformation:
    """The optimiser."""
    return optimizer.create_optimizer(self.config, self.steps_per_epoch)

  @property
  def steps_of_epoch(self) -> int:
    """Number of steps done of the present epoch, as far as the host has heard."""
    return len(self.epoch_metrics.get('loss', ()))

  def take_in(self, metrics: dict[str, np.ndarray], first_step: int) -> None:
    """Adds the metrics of a dispatch.

    Args:
      metrics: (steps,) by name.
      first_step: the step before the epoch.

    Raises:
      UserError: for the first step with a number that is not finite.
    """
    finite = np.all([np.isfinite(values) for values in metrics.values()], axis=0)
    if not finite.all():
      first = int(np.argmin(finite))
      values = ', '.join(f'{name} {float(steps[first]):.6g}' for name, steps in metrics.items())
      self.checkpoints.wait()
      raise UserError(
        f'{self.workdir}: not a number at step {first_step + self.steps_of_epoch + first + 1}: {values}: '
        f'expected finite values, as with a lower learning rate; {self.checkpoints.newest_good}'
      )
    self.epoch_metrics = {
      name: np.concatenate([self.epoch_metrics.get(name, steps[:0]), steps]) for name, steps in metrics.items()
    }

  def end_epoch(self, record: dict[str, Any]) -> None:
    """Writes the record of the present epoch, and begins the next."""
    if 'test_error' in record:
      errors = [earlier['test_error'] for earlier in self.writer.records if 'test_error' in earlier]
      record['best_test_error'] = min([*errors, record['test_error']])
    self.writer.write(record)  # before the checkpoint: a record without one is dropped, a step would be lost
    self.epoch_metrics = {}


def configs_of_students(
  config: ml_collections.ConfigDict, workdir: str | os.PathLike
) -> dict[Workdir, ml_collections.ConfigDict]:
  """Returns the config of each student of a run, by its workdir. Raises UserError."""
  return {Workdir(Path(workdir) / name): student for name, student in config_lib.students(config).items()}


def check_workdirs(configs: Mapping[Workdir, ml_collections.ConfigDict], workdir: str | os.PathLike) -> None:
  """Raises UserError, in the first process, where a student of a run cannot be kept in its workdir, or not go on so."""
  if exchange.is_first():
    for student_workdir, student in configs.items():
      student_workdir.check(student)
      for path in (student_workdir.path, student_workdir.path / AVERAGE_FOLDER):
        files.check_inside(path, workdir)


def open_students(
  students: Sequence[Student],
  replicas: Replicas,
  opened: contextlib.ExitStack,
) -> tuple[TrainState, ...]:
  """Locks and opens the students' workdirs, and restores the newest step that all of them have reached.

  In a run of several processes the first process opens the workdirs, and tells the others what is in them.

  Args:
    students: of one run.
    replicas: the devices of all processes.
    opened: receives what is to be closed at the end of the run.

  Returns:
    The state of each student, host arrays.
  """
  states, written = exchange.from_first(lambda: _open_workdirs(students, opened), replicas)
  if not exchange.is_first():
    for student, (epoch_metrics, records) in zip(students, written, strict=True):
      student.epoch_metrics, student.writer = epoch_metrics, NoWriter(records)
  return tuple(states)


def _open_workdirs(
  students: Sequence[Student],
  opened: contextlib.ExitStack,
) -> tuple[Sequence[TrainState], list[tuple[dict[str, np.ndarray], list[dict[str, Any]]]]]:
  """The states of students, and what their workdirs hold beside: the metrics of the present epoch, and the records."""
  begun = any(student.workdir.begun for student in students)
  for student in students:
    opened.enter_context(student.workdir.lock())
  for student in students:
    student.workdir.check(student.config)  # again: another run may have come and gone before the lock was ours
    student.workdir.check_data(student.facts)
  checkpoints = []
  for student in students:
    checkpoints.append(student.workdir.checkpoints(create=True))
    opened.callback(checkpoints[-1].close)
    student.checkpoints = checkpoints[-1]
  initial = []
  for student in students:
    init_key, _, _ = split_seed(student.config.model.seed)
    _, _, step_key = split_seed(student.config.seed)
    state = step_lib.create_train_state(
      student.network, student.facts.image_shape, student.optimizer, init_key, step_key
    )
    initial.append(state.with_ema() if student.config.optimizer.ema else state)
  step, states = restore_students(
    students, checkpoints, initial, students[0].config.epochs * students[0].steps_per_epoch
  )
  if not step:
    states = [student.start(state) for student, state in zip(students, states, strict=True)]
    states = [state.with_ema() if state.ema else state for state in states]
  if begun and not step:
    common = os.path.commonpath([student.workdir for student in students])
    warn(f'{common}: no checkpoint yet of the run that was begun here: it begins anew')
  for student, saved in zip(students, checkpoints, strict=True):
    saved.go_back(step)
    student.workdir.begin(student.config, student.facts, step)
    writer = Writer(student.workdir, (step - student.steps_of_epoch) // student.steps_per_epoch)
    opened.callback(writer.close)
    student.writer = writer
  return states, [(student.epoch_metrics, student.writer.records) for student in students]


def restore_students(
  students: Sequence[Student], checkpoints: Sequence[Checkpoints], states: Sequence[TrainState], last_step: int
) -> tuple[int, Sequence[TrainState]]:
  """Restores the newest step that all students have a good checkpoint of, with the metrics of its epoch.

  Args:
    students: of one run.
    checkpoints: their checkpoints.
    states: their initial states.
    last_step: the last step of the run.

  Returns:
    The step and the states there; 0 and the initial states where there is no such step.

  Raises:
    UserError: where the students are not of one run.
  """
  paths = [student.workdir.path for student in students]
  while step := common_step({path: saved.steps for path, saved in zip(paths, checkpoints, strict=True)}, last_step):
    restored = []
    for student, saved, state in zip(students, checkpoints, states, strict=True):
      try:
        restored.append(saved.restore(step, student.config, state.trees))
      except DamagedError as error:
        saved.set_aside(step, error)
        break
    else:
      for student, (_, metadata) in zip(students, restored, strict=True):
        student.epoch_metrics = metadata.epoch_metrics
      return step, [state.with_trees(trees) for state, (trees, _) in zip(states, restored, strict=True)]
  return 0, states


def common_step(saved: dict[Path, list[int]], last_step: int) -> int:
  """Returns the newest step that all students of a run have a checkpoint of, or 0 where there is none.

  A run that was stopped while it saved leaves its students at most one checkpoint apart.

  Args:
    saved: the steps of each student's checkpoints, by its workdir.
    last_step: the last step of the run.

  Raises:
    UserError: where they are further apart, or where one is finished and another not begun: going back would undo what
      is done.
  """
  step = min(max(steps, default=0) for steps in saved.values())
  for path, steps in saved.items():
    apart = sum(later > step for later in steps) > 1 or (step and step not in steps)
    if apart or (not step and last_step in steps):
      reached = ', '.join(f'{path.name} {max(steps, default=0)}' for path, steps in saved.items())
      raise UserError(f'{path.parent}: the students are at different steps ({reached}): expected those of one run')
  return step


def save_students(
  students: Sequence[Student], states: Sequence[TrainState], replicas: Replicas, wait: bool = False
) -> None:
  """Begins to save all students, unless this step is saved; only once no earlier save goes on, so none is far ahead.

  Args:
    students: of one run.
    states: their states, on the devices.
    replicas: the devices.
    wait: whether to wait until they are saved.
  """
  for student in students:
    student.checkpoints.wait()
  for student, state in zip(students, map(replicas.fetch, states), strict=True):
    if state.step and state.step not in student.checkpoints.steps:
      student.checkpoints.save(int(state.step), state.trees, student.config, student.facts, student.epoch_metrics)
  if wait:
    for student in students:
      student.checkpoints.wait()
