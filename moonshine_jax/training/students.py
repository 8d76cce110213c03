"""The students of a run: their networks, states and workdirs."""

import contextlib
import dataclasses
import os
from pathlib import Path

import jax
import ml_collections
import numpy as np
import optax

from moonshine_jax.data import splits
from moonshine_jax.errors import UserError, warn
from moonshine_jax.models.factory import create_network
from moonshine_jax.models.network import Network
from moonshine_jax.runtime import exchange, files
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.training import step as step_lib
from moonshine_jax.workdir import checkpoint, metrics, provenance
from moonshine_jax.workdir import workdir as workdir_lib
from moonshine_jax.workdir.workdir import check_workdir


@dataclasses.dataclass
class Student:
  """A network that is trained: its config as if it were alone, its workdir, and what is written there.

  Attributes:
    epoch_metrics: (steps,) by name, of the steps of the present epoch.
  """

  config: ml_collections.ConfigDict
  workdir: Path
  network: Network
  checkpoints: checkpoint.Checkpoints | checkpoint.NoCheckpoints
  writer: metrics.Writer | metrics.NoWriter
  epoch_metrics: dict[str, np.ndarray]

  @property
  def steps_of_epoch(self) -> int:
    """Steps done of the present epoch, as far as the host has heard."""
    return len(self.epoch_metrics.get('loss', ()))


def split_keys(seed: int) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The keys of the initial parameters, of the order of the examples and of their augmentation."""
  return tuple(jax.random.split(jax.random.key(seed), 3))


def open_students(
  runs: dict[Path, ml_collections.ConfigDict],
  facts: splits.Facts,
  tx: optax.GradientTransformation,
  replicas: Replicas,
  steps_per_epoch: int,
  opened: contextlib.ExitStack,
) -> tuple[list[Student], tuple[step_lib.TrainState, ...]]:
  """The students with their workdirs locked and opened, and their states at the newest step that all have reached.

  Of several processes the first opens the workdirs, and tells the others what is in them. What is to be closed at the
  end goes onto `opened`.
  """
  networks = {path: create_network(config.model, facts, replicas.axis_name) for path, config in runs.items()}
  all_checkpoints = dict.fromkeys(runs, checkpoint.NoCheckpoints())
  writers = {}

  def open_workdirs():
    begun = any((path / workdir_lib.FILE).exists() for path in runs)
    for path in runs:
      opened.enter_context(files.lock(path))
    for path, config in runs.items():
      check_workdir(config, path)  # again: another run may have come and gone before the lock was ours
    for path in runs:
      all_checkpoints[path] = checkpoint.Checkpoints(path, create=True)
      opened.callback(all_checkpoints[path].close)
    states = {}
    for path, config in runs.items():
      init_key, _, _ = split_keys(config.model.seed)
      _, _, step_key = split_keys(config.seed)
      states[path] = step_lib.create_train_state(networks[path], facts.image_shape, tx, init_key, step_key)
    last_step = next(iter(runs.values())).epochs * steps_per_epoch
    step, restored, epoch_metrics = restore_students(runs, all_checkpoints, states, last_step)
    if begun and not step:
      warn(f'{os.path.commonpath(runs)}: no checkpoint yet of the run that was begun here: it begins anew')
    for path, config in runs.items():
      all_checkpoints[path].go_back(step)
      workdir_lib.write(config, path)
      provenance.record_start(path, config, facts, step)
      done = len(epoch_metrics[path].get('loss', ()))
      writers[path] = metrics.Writer(path, (step - done) // steps_per_epoch)
      opened.callback(writers[path].close)
    return restored, epoch_metrics, {path: writer.records for path, writer in writers.items()}

  states, epoch_metrics, records = exchange.from_first(open_workdirs, replicas)
  students = [
    Student(
      config,
      path,
      networks[path],
      all_checkpoints[path],
      writers.get(path) or metrics.NoWriter(records[path]),
      epoch_metrics[path],
    )
    for path, config in runs.items()
  ]
  return students, tuple(states.values())


def restore_students(
  runs: dict[Path, ml_collections.ConfigDict],
  all_checkpoints: dict[Path, checkpoint.Checkpoints],
  states: dict[Path, step_lib.TrainState],
  last_step: int,
) -> tuple[int, dict[Path, step_lib.TrainState], dict[Path, dict[str, np.ndarray]]]:
  """The newest step that all have a good checkpoint of, and their states and their epoch's metrics there.

  Without any, 0 and the states as they are.
  """
  while step := common_step({path: each.steps for path, each in all_checkpoints.items()}, last_step):
    restored = {}
    for path, checkpoints in all_checkpoints.items():
      try:
        restored[path] = checkpoints.state(step, runs[path], states[path])
      except checkpoint.DamagedError as error:
        checkpoints.set_aside(step, error)
        break
    else:
      return (
        step,
        {path: state for path, (state, _) in restored.items()},
        {path: metadata.epoch_metrics for path, (_, metadata) in restored.items()},
      )
  return 0, states, {path: {} for path in runs}


def common_step(saved: dict[Path, list[int]], last_step: int) -> int:
  """The newest step that all have a checkpoint of, or 0 where there is none.

  A run that was stopped while it saved leaves its students at most one checkpoint apart. Raises UserError where they
  are further apart, or where one is finished and another not begun: going back would undo what is done.
  """
  step = min(max(steps_saved, default=0) for steps_saved in saved.values())
  for path, steps_saved in saved.items():
    apart = sum(each > step for each in steps_saved) > 1 or (step and step not in steps_saved)
    if apart or (not step and last_step in steps_saved):
      reached = ', '.join(f'{each.name} {max(steps, default=0)}' for each, steps in saved.items())
      raise UserError(f'{path.parent}: the students are at different steps ({reached}): expected those of one run')
  return step


def take_in(students: list[Student], dispatched: tuple[dict[str, np.ndarray], ...], first_step: int) -> int:
  """Takes in the metrics (steps,) of a dispatch; `first_step` is the epoch's. Returns the number of its steps.

  Raises UserError at the first step with a number that is not finite.
  """
  for student, own in zip(students, dispatched, strict=True):
    finite = np.all([np.isfinite(values) for values in own.values()], axis=0)
    if not finite.all():
      at = int(np.argmin(finite))
      values = ', '.join(f'{name} {float(each[at]):.6g}' for name, each in own.items())
      student.checkpoints.wait()
      step = first_step + student.steps_of_epoch + at + 1
      raise UserError(
        f'{student.workdir}: not a number at step {step}: {values}: '
        f'expected finite values, as with a lower learning rate; {student.checkpoints.newest_good}'
      )
    student.epoch_metrics = {
      name: np.concatenate([student.epoch_metrics.get(name, values[:0]), values]) for name, values in own.items()
    }
  return len(dispatched[0]['loss'])


def save(
  students: list[Student], states: tuple[step_lib.TrainState, ...], facts: splits.Facts, replicas: Replicas
) -> None:
  """Begins to save all students, unless this step is saved, once none is saving still: no two are far apart."""
  for student in students:
    student.checkpoints.wait()
  for student, state in zip(students, states, strict=True):
    state = replicas.fetch(state)
    if state.step and state.step not in student.checkpoints.steps:
      student.checkpoints.save(state, student.config, facts, student.epoch_metrics)
