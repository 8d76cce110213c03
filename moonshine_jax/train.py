"""Training and distillation: the loop."""

import collections
import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from moonshine_jax import config as config_lib
from moonshine_jax import matching, optim, steps
from moonshine_jax.data import feeds, sources, splits
from moonshine_jax.errors import Preempted, UserError, warn
from moonshine_jax.models.factory import create_model
from moonshine_jax.models.network import Network
from moonshine_jax.runtime import exchange, files
from moonshine_jax.runtime import signals as signal_handlers
from moonshine_jax.runtime.devices import IN_FLIGHT, Replicas
from moonshine_jax.training.progress import ProgressBar
from moonshine_jax.workdir import checkpoint, metrics, provenance
from moonshine_jax.workdir import workdir as workdir_lib
from moonshine_jax.workdir.workdir import check_workdir

MAX_STEPS = 2**31 - 1  # a state counts them in an int32


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


def train_and_evaluate(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> dict[Path, dict[str, Any]]:
  """Trains the network of a config, by distillation where it names a teacher, and evaluates it after each epoch.

  Goes on from the newest checkpoint in the workdir, if there is one. Where the config names several students, each has
  a workdir in this one and ends as if it were trained there alone. Of several processes, which all call this with the
  same config, the first alone needs the workdir and the teacher; all read the data.

  Args:
    config: of the form of `configs/cifar10.py`.
    workdir: a folder, made where there is none, for checkpoints, metrics and the config.

  Returns:
    The last epoch's record, as in `metrics.jsonl`, of each workdir; errors are in percent.

  Raises:
    UserError: before anything is downloaded or compiled, for what cannot be run; later, for a number that is not
      finite and for a disk that is full.
    Preempted: after SIGTERM or SIGINT, once the steps that were on their way are saved.
  """
  config_lib.check(config)
  if not config.epochs:
    raise UserError('config.epochs=0: expected at least 1: 0 is of a network that was given, which nothing trains on')
  runs = {Path(workdir) / name: each for name, each in config_lib.students(config).items()}
  replicas = Replicas()
  check_alike(config, replicas)
  if config.batch_size % len(replicas):
    raise UserError(f'config.batch_size={config.batch_size}: expected a multiple of the {len(replicas)} devices')
  source = sources.open_source(config.data)
  if config.data.pad > min(source.image_shape[:2]):
    raise UserError(
      f'config.data.pad={config.data.pad}: expected at most {min(source.image_shape[:2])}, the side of an image'
    )
  teacher, teacher_variables = matching.load_teacher(config, runs.values(), source, replicas)
  if exchange.is_first():
    for path, each in runs.items():
      check_workdir(each, path)

  train_split, test_split = exchange.first_before_others(
    lambda: (source.read(config.data.train_split), source.read(config.data.test_split))
  )
  if config.batch_size > len(train_split):
    raise UserError(f'config.batch_size={config.batch_size}: expected at most the {len(train_split)} training examples')
  facts = sources.measure(source, train_split)
  train_feed, test_feed = (feeds.FEEDS[config.data.feed](split, replicas) for split in (train_split, test_split))
  steps_per_epoch = len(train_split) // config.batch_size
  if (most := MAX_STEPS // steps_per_epoch) < max(config.epochs, *config.optimizer.decay_epochs, 0):
    raise UserError(
      f'config.epochs={config.epochs}, config.optimizer.decay_epochs={config.optimizer.decay_epochs}: '
      f'expected at most {most} epochs of {steps_per_epoch} steps'
    )
  learning_rate_fn = optim.create_learning_rate_fn(config, steps_per_epoch)
  tx = optim.create_optimizer(config, steps_per_epoch)

  with signal_handlers.catch() as signals, contextlib.ExitStack() as opened:
    students, states = open_students(runs, facts, tx, replicas, steps_per_epoch, opened)
    step = int(states[0].step)
    _, order_key, _ = split_keys(config.seed)
    progress = opened.enter_context(
      contextlib.closing(ProgressBar(config.epochs, steps_per_epoch, step, config.batch_size))
    )
    states, teacher_variables = replicas.replicate((states, teacher_variables))
    networks = [student.network for student in students]
    train_step = steps.make_train_step(list(runs.values()), networks, teacher, tx, train_feed.gather, replicas)
    train_loop = replicas.compile(steps.make_train_loop(train_step), donate_argnums=(0,))
    eval_steps = [replicas.compile(steps.make_eval_step(network, test_feed.gather, replicas)) for network in networks]

    for epoch in range((step - students[0].steps_of_epoch) // steps_per_epoch, config.epochs):
      start = time.perf_counter()
      order = feeds.epoch_batches(order_key, epoch, len(train_split), config.batch_size)
      order = order[students[0].steps_of_epoch :]  # a run that was stopped in the middle of an epoch goes on there

      def receive(dispatched, first_step=epoch * steps_per_epoch):
        progress.advance(take_in(students, replicas.fetch(dispatched), first_step))

      states = run_epoch(
        train_loop,
        states,
        teacher_variables,
        train_feed,
        order,
        config.steps_per_dispatch,
        receive,
        stopped=lambda: signals.received,
        key=(config.seed, epoch),
      )
      step = epoch * steps_per_epoch + students[0].steps_of_epoch
      if signals.received:
        save(students, states, facts, replicas)
        for student in students:
          student.checkpoints.wait()
        raise Preempted(
          f'{signals.received} after step {step} of {config.epochs * steps_per_epoch} in {workdir}: '
          'the same command goes on from there'
        )

      images_per_second = round(order.size / (time.perf_counter() - start), 1)
      last = epoch + 1 == config.epochs
      for student, state, eval_step in zip(students, states, eval_steps, strict=True):
        record = {
          'epoch': epoch + 1,
          'step': step,
          'learning_rate': float(learning_rate_fn(epoch * steps_per_epoch)),
          **{f'train_{name}': float(np.mean(each, dtype=np.float64)) for name, each in student.epoch_metrics.items()},
          'images_per_second': images_per_second,
        }
        if last or (epoch + 1) % config.eval_every == 0:
          record |= evaluate(eval_step, state.variables, test_feed, len(test_split), config.batch_size, replicas)
          errors = [each['test_error'] for each in student.writer.records if 'test_error' in each]
          record['best_test_error'] = min([*errors, record['test_error']])
        student.writer.write(record)  # before the checkpoint: a record without one is dropped, a step would be lost
        student.epoch_metrics = {}
        progress.epoch(record, student.workdir.name if len(students) > 1 else '')
      if last or (epoch + 1) % config.checkpoint_every == 0:
        save(students, states, facts, replicas)

  return {student.workdir: student.writer.records[-1] for student in students}


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
) -> tuple[list[Student], tuple[steps.TrainState, ...]]:
  """The students with their workdirs locked and opened, and their states at the newest step that all have reached.

  Of several processes the first opens the workdirs, and tells the others what is in them. What is to be closed at the
  end goes onto `opened`.
  """
  networks = {
    path: Network(
      create_model(config.model, facts.num_classes, replicas.axis_name, facts.image_shape), facts.mean, facts.std
    )
    for path, config in runs.items()
  }
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
      states[path] = steps.create_train_state(networks[path], facts.image_shape, tx, init_key, step_key)
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
  states: dict[Path, steps.TrainState],
  last_step: int,
) -> tuple[int, dict[Path, steps.TrainState], dict[Path, dict[str, np.ndarray]]]:
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


def check_alike(config: ml_collections.ConfigDict, replicas: Replicas) -> None:
  """Raises UserError in a process whose config is not the first one's: only where its data is may differ."""
  own = config_lib.flatten(config)
  for name, value in exchange.from_first(lambda: own, replicas).items():
    if name != 'data.data_dir' and own[name] != value:
      raise UserError(f'config.{name}={own[name]!r} (in process 0: {value!r}): expected the same in all processes')


def run_epoch(
  train_loop: Callable,
  states: tuple[steps.TrainState, ...],
  teacher_variables: Any,
  feed: feeds.ResidentFeed | feeds.StreamFeed,
  order: np.ndarray,
  steps_per_dispatch: int,
  receive: Callable[[Any], None],
  stopped: Callable[[], Any] = lambda: False,
  key: tuple[int, ...] = (),
) -> tuple[steps.TrainState, ...]:
  """Dispatches the steps of an epoch, the host at most IN_FLIGHT dispatches ahead of the devices.

  Args:
    train_loop: the compiled loop, to which the states are donated.
    states: one a student, on the devices.
    teacher_variables: on the devices.
    feed: of the training split.
    order: the batches as indices, (steps, batch_size).
    steps_per_dispatch: at most; a stream takes one.
    receive: called with the metrics of each dispatch, in order, and of all of them at the end.
    stopped: asked before each dispatch whether to leave it and those after it out.
    key: what the random crops of images follow from, where the feed crops them.

  Returns:
    The states.
  """
  in_flight = collections.deque()
  for batches in feed.stacks(order, steps_per_dispatch, key):
    if stopped():
      break
    states, dispatched = train_loop(states, teacher_variables, feed.data, batches)
    in_flight.append(dispatched)
    if len(in_flight) == IN_FLIGHT:
      receive(in_flight.popleft())
  while in_flight:
    receive(in_flight.popleft())
  return states


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
  students: list[Student], states: tuple[steps.TrainState, ...], facts: splits.Facts, replicas: Replicas
) -> None:
  """Begins to save all students, unless this step is saved, once none is saving still: no two are far apart."""
  for student in students:
    student.checkpoints.wait()
  for student, state in zip(students, states, strict=True):
    state = replicas.fetch(state)
    if state.step and state.step not in student.checkpoints.steps:
      student.checkpoints.save(state, student.config, facts, student.epoch_metrics)


def evaluate(
  eval_step: Callable,
  variables: Any,
  feed: feeds.ResidentFeed | feeds.StreamFeed,
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
  sums = replicas.replicate(steps.NO_EXAMPLES)
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
  """As `evaluate`, of a network with its host arrays, by the feed and the batch size of a config."""
  feed = feeds.FEEDS[config.data.feed](split, replicas)
  eval_step = replicas.compile(steps.make_eval_step(network, feed.gather, replicas))
  return evaluate(eval_step, replicas.replicate(variables), feed, len(split), config.batch_size, replicas)
