"""Training and distillation: the loop."""

import collections
import dataclasses
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from moonshine_jax import checkpoint, datasets, feeds, metrics, optim, steps
from moonshine_jax import config as config_lib
from moonshine_jax.errors import UserError
from moonshine_jax.models import create_model
from moonshine_jax.parallel import Replicas

MAY_DIFFER = {'data.data_dir', 'data.feed', 'steps_per_dispatch'}  # fields that change no bit of a run
IN_FLIGHT = 4  # dispatches that the host is ahead of the devices: enough to keep them busy, few enough to be told of


@dataclasses.dataclass
class Student:
  """A network that is trained: its config as if it were alone, its workdir, and what is written there."""

  config: ml_collections.ConfigDict
  workdir: Path
  network: steps.Network
  checkpoints: checkpoint.Checkpoints
  writer: metrics.Writer


def train_and_evaluate(
  config: ml_collections.ConfigDict, workdir: str | os.PathLike
) -> dict[Path, dict[str, Any]]:
  """Trains the network of a config, by distillation where it names a teacher, and evaluates it after each epoch.

  Goes on from the newest checkpoint in the workdir, if there is one. Where the config names several students, each has
  a workdir in this one and ends as if it were trained there alone.

  Args:
    config: of the form of `configs/cifar10.py`.
    workdir: a folder, made where there is none, for checkpoints, metrics and the config.

  Returns:
    The last epoch's record, as in `metrics.jsonl`, of each workdir; errors are in percent.

  Raises:
    UserError: before anything is downloaded or compiled, for what cannot be run.
  """
  config_lib.check(config)
  runs = {Path(workdir) / name: each for name, each in config_lib.students(config).items()}
  replicas = Replicas()
  if config.batch_size % len(replicas):
    raise UserError(f'config.batch_size={config.batch_size}: expected a multiple of the {len(replicas)} devices')
  source = datasets.open_source(config.data)
  teacher, teacher_variables = load_teacher(config, runs.values(), source)
  for path, each in runs.items():
    check_workdir(each, path)

  train_split, test_split = source.read(config.data.train_split), source.read(config.data.test_split)
  if config.batch_size > len(train_split):
    raise UserError(f'config.batch_size={config.batch_size}: expected at most the {len(train_split)} training examples')
  facts = datasets.measure(source, train_split)
  train_feed, test_feed = (feeds.FEEDS[config.data.feed](split, replicas) for split in (train_split, test_split))
  steps_per_epoch = len(train_split) // config.batch_size
  learning_rate_fn = optim.create_learning_rate_fn(config, steps_per_epoch)
  tx = optim.create_optimizer(config, steps_per_epoch)
  _, order_key, step_key = split_keys(config.seed)

  students, states = open_students(runs, facts, tx, step_key, replicas, config.epochs * steps_per_epoch)
  first_step = int(states[0].step)
  progress = metrics.Progress(config.epochs, steps_per_epoch, first_step, config.batch_size)
  states, teacher_variables = replicas.replicate((states, teacher_variables))
  networks = [student.network for student in students]
  train_step = steps.make_train_step(list(runs.values()), networks, teacher, tx, train_feed.gather, replicas)
  train_loop = replicas.compile(steps.make_train_loop(train_step), donate_argnums=(0,))
  eval_steps = [replicas.compile(steps.make_eval_step(network, test_feed.gather, replicas)) for network in networks]

  for epoch in range(first_step // steps_per_epoch, config.epochs):
    start = time.perf_counter()
    order = feeds.epoch_batches(order_key, epoch, len(train_split), config.batch_size)
    states, epoch_metrics = run_epoch(
      train_loop, states, teacher_variables, train_feed, order, config.steps_per_dispatch, progress.advance)
    means = epoch_means(replicas.fetch(epoch_metrics))
    images_per_second = round(order.size / (time.perf_counter() - start), 1)
    last = epoch + 1 == config.epochs
    for student, state, mean, eval_step in zip(students, states, means, eval_steps, strict=True):
      record = {
        'epoch': epoch + 1,
        'step': (epoch + 1) * steps_per_epoch,
        'learning_rate': float(learning_rate_fn(epoch * steps_per_epoch)),
        **mean,
        'images_per_second': images_per_second,
      }
      if last or (epoch + 1) % config.eval_every == 0:
        record |= evaluate(eval_step, state.variables, test_feed, len(test_split), config.batch_size, replicas)
        errors = [each['test_error'] for each in student.writer.records if 'test_error' in each]
        record['best_test_error'] = min([*errors, record['test_error']])
      student.writer.write(record)  # before the checkpoint: a record without one is dropped, a step would be lost
      if last or (epoch + 1) % config.checkpoint_every == 0:
        student.checkpoints.save(replicas.fetch(state), student.config, facts)
      progress.epoch(record, student.workdir.name if len(students) > 1 else '')

  for student in students:
    student.checkpoints.close()
    student.writer.close()
  progress.close()
  return {student.workdir: student.writer.records[-1] for student in students}


def split_keys(seed: int) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The keys of the initial parameters, of the order of the examples and of their augmentation."""
  return tuple(jax.random.split(jax.random.key(seed), 3))


def open_students(
  runs: dict[Path, ml_collections.ConfigDict],
  facts: datasets.Facts,
  tx: optax.GradientTransformation,
  step_key: jax.Array,
  replicas: Replicas,
  last_step: int,
) -> tuple[list[Student], tuple[steps.TrainState, ...]]:
  """The students with their workdirs made and opened, and their states at the newest step that all have reached."""
  for path, config in runs.items():
    config_lib.write(config, path)
  all_checkpoints = [checkpoint.Checkpoints(path, create=True) for path in runs]
  step = common_step({path: each.steps for path, each in zip(runs, all_checkpoints, strict=True)}, last_step)
  students, states = [], []
  for (path, config), checkpoints in zip(runs.items(), all_checkpoints, strict=True):
    model = create_model(config.model, facts.num_classes, replicas.axis_name)
    network = steps.Network(model, facts.mean, facts.std)
    init_key, _, _ = split_keys(config.model.seed)
    state = steps.create_train_state(network, facts.image_shape, tx, init_key, step_key)
    checkpoints.go_back(step)
    states.append(checkpoints.state(state) if step else state)
    students.append(Student(config, path, network, checkpoints, metrics.Writer(path, step)))
  return students, tuple(states)


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


def cache_compilations(folder: str | os.PathLike) -> None:
  """Keeps compiled steps in a folder from run to run, unless the user named another ($JAX_COMPILATION_CACHE_DIR)."""
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', str(Path(folder).absolute()))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)  # an initialiser compiles once for each shape


def load_teacher(
  config: ml_collections.ConfigDict, students: Iterable[ml_collections.ConfigDict], source: datasets.Source
) -> tuple[steps.Network | None, Any]:
  """The teacher and its variables, or (None, {}) where no student needs it. Raises UserError where it does not fit."""
  if all(config_lib.regime(student) == 'none' for student in students):
    return None, {}
  path = config.distill.teacher
  try:
    checkpoints = checkpoint.Checkpoints(path)
  except UserError as error:
    raise UserError(f'config.distill.teacher={path!r}: {error}') from error
  _, facts = checkpoints.metadata()
  if (facts.num_classes, facts.image_shape) != (source.num_classes, source.image_shape):
    raise UserError(
      f'config.distill.teacher={path!r}: trained for {facts.num_classes} classes and images of {facts.image_shape}: '
      f'data set {config.data.name} has {source.num_classes} classes and images of {source.image_shape}')
  network, variables = checkpoints.network()
  checkpoints.close()
  return network, variables


def check_workdir(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> None:
  """Raises UserError where a run of another config is in the workdir."""
  if not (Path(workdir) / config_lib.FILE).exists():
    return
  theirs = config_lib.flatten(config_lib.read(workdir))
  ours = config_lib.flatten(config)
  differing = [
    f'config.{name}={ours.get(name)!r} (there: {theirs.get(name)!r})'
    for name in sorted({*ours, *theirs} - MAY_DIFFER)
    if ours.get(name) != theirs.get(name)
  ]
  if differing:
    raise UserError(f'{workdir} holds a run of another config: {", ".join(differing)}: '
                    'expected the same config, to go on, or another workdir')


def run_epoch(
  train_loop: Callable,
  states: tuple[steps.TrainState, ...],
  teacher_variables: Any,
  feed: feeds.ResidentFeed | feeds.StreamFeed,
  order: np.ndarray,
  steps_per_dispatch: int,
  advance: Callable[[int], None],
) -> tuple[tuple[steps.TrainState, ...], list[Any]]:
  """Dispatches an epoch, the host at most IN_FLIGHT dispatches ahead of the devices.

  Args:
    train_loop: the compiled loop, to which the states are donated.
    states: one a student, on the devices.
    teacher_variables: on the devices.
    feed: of the training split.
    order: the epoch's batches as indices, (steps, batch_size).
    steps_per_dispatch: at most; a stream takes one.
    advance: called with the number of steps of each dispatch.

  Returns:
    The states and the metrics of each dispatch, of which the last are still being computed.
  """
  epoch_metrics = []
  for batches in feed.stacks(order, steps_per_dispatch):
    states, each = train_loop(states, teacher_variables, feed.data, batches)
    epoch_metrics.append(each)
    jax.block_until_ready(epoch_metrics[-IN_FLIGHT:][0])
    advance(jax.tree.leaves(each)[0].shape[-1])
  return states, epoch_metrics


def epoch_means(dispatches: list[tuple[dict[str, np.ndarray], ...]]) -> list[dict[str, float]]:
  """For each student the means over an epoch of its metrics (steps,) of each dispatch: {'train_loss': ..., ...}."""
  return [
    {f'train_{name}': float(np.mean(np.concatenate([each[name] for each in own]), dtype=np.float64)) for name in own[0]}
    for own in zip(*dispatches, strict=True)
  ]


def evaluate(eval_step: Callable, variables: Any, feed: feeds.ResidentFeed | feeds.StreamFeed, examples: int,
             batch_size: int, replicas: Replicas) -> dict[str, float]:
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
  sums = collections.Counter()
  for each in [eval_step(variables, feed.data, batch) for batch in feed.batches(batches)]:
    sums.update({name: float(value) for name, value in replicas.fetch(each).items()})
  return {'test_error': 100 * sums['wrong'] / sums['examples'], 'test_loss': sums['loss'] / sums['examples']}
