"""Training and distillation: the loop."""

import collections
import contextlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from moonshine_jax import config as config_lib
from moonshine_jax.data import feeds, sources
from moonshine_jax.errors import Preempted, UserError
from moonshine_jax.runtime import exchange
from moonshine_jax.runtime import signals as signal_handlers
from moonshine_jax.runtime.devices import IN_FLIGHT, Replicas
from moonshine_jax.training import optimizer
from moonshine_jax.training import step as step_lib
from moonshine_jax.training import teacher as teacher_lib
from moonshine_jax.training.evaluation import evaluate_feed
from moonshine_jax.training.progress import ProgressBar
from moonshine_jax.training.students import open_students, save, take_in
from moonshine_jax.workdir.workdir import check_workdir

MAX_STEPS = 2**31 - 1  # a state counts them in an int32


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
  teacher, teacher_variables = teacher_lib.load_teacher(config, runs.values(), source, replicas)
  if exchange.is_first():
    for path, each in runs.items():
      check_workdir(each, path)

  train_split, test_split = exchange.first_before_others(
    lambda: (source.read(config.data.train_split), source.read(config.data.test_split))
  )
  if config.batch_size > len(train_split):
    raise UserError(f'config.batch_size={config.batch_size}: expected at most the {len(train_split)} training examples')
  facts = sources.measure_facts(source, train_split)
  train_feed, test_feed = (feeds.FEEDS[config.data.feed](split, replicas) for split in (train_split, test_split))
  steps_per_epoch = len(train_split) // config.batch_size
  if (most := MAX_STEPS // steps_per_epoch) < max(config.epochs, *config.optimizer.decay_epochs, 0):
    raise UserError(
      f'config.epochs={config.epochs}, config.optimizer.decay_epochs={config.optimizer.decay_epochs}: '
      f'expected at most {most} epochs of {steps_per_epoch} steps'
    )
  learning_rate_fn = optimizer.create_learning_rate_fn(config, steps_per_epoch)
  tx = optimizer.create_optimizer(config, steps_per_epoch)

  with signal_handlers.catch() as signals, contextlib.ExitStack() as opened:
    students, states = open_students(runs, facts, tx, replicas, steps_per_epoch, opened)
    step = int(states[0].step)
    progress = opened.enter_context(
      contextlib.closing(ProgressBar(config.epochs, steps_per_epoch, step, config.batch_size))
    )
    states, teacher_variables = replicas.replicate((states, teacher_variables))
    networks = [student.network for student in students]
    train_step = step_lib.make_train_step(list(runs.values()), networks, teacher, tx, train_feed.gather, replicas)
    train_loop = replicas.compile(step_lib.make_train_loop(train_step), donate_argnums=(0,))
    eval_steps = [
      replicas.compile(step_lib.make_eval_step(network, test_feed.gather, replicas)) for network in networks
    ]

    for epoch in range((step - students[0].steps_of_epoch) // steps_per_epoch, config.epochs):
      start = time.perf_counter()
      steps_done = students[0].steps_of_epoch  # a run that was stopped in the middle of an epoch goes on there

      def receive(dispatched, first_step=epoch * steps_per_epoch):
        progress.advance(take_in(students, replicas.fetch(dispatched), first_step))

      states = run_epoch(
        train_loop,
        states,
        teacher_variables,
        train_feed.data,
        train_feed.epoch(config.seed, epoch, config.batch_size, steps_done, config.steps_per_dispatch),
        receive,
        stopped=lambda: signals.received,
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

      images = (steps_per_epoch - steps_done) * config.batch_size
      images_per_second = round(images / (time.perf_counter() - start), 1)
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
          record |= evaluate_feed(eval_step, state.variables, test_feed, len(test_split), config.batch_size, replicas)
          errors = [each['test_error'] for each in student.writer.records if 'test_error' in each]
          record['best_test_error'] = min([*errors, record['test_error']])
        student.writer.write(record)  # before the checkpoint: a record without one is dropped, a step would be lost
        student.epoch_metrics = {}
        progress.epoch(record, student.workdir.name if len(students) > 1 else '')
      if last or (epoch + 1) % config.checkpoint_every == 0:
        save(students, states, facts, replicas)

  return {student.workdir: student.writer.records[-1] for student in students}


def check_alike(config: ml_collections.ConfigDict, replicas: Replicas) -> None:
  """Raises UserError in a process whose config is not the first one's: only where its data is may differ."""
  own = config_lib.flatten(config)
  for name, value in exchange.from_first(lambda: own, replicas).items():
    if name != 'data.data_dir' and own[name] != value:
      raise UserError(f'config.{name}={own[name]!r} (in process 0: {value!r}): expected the same in all processes')


def run_epoch(
  train_loop: Callable,
  states: tuple[step_lib.TrainState, ...],
  teacher_variables: Any,
  data: Any,
  dispatches: Iterable[Any],
  receive: Callable[[Any], None],
  stopped: Callable[[], Any] = lambda: False,
) -> tuple[step_lib.TrainState, ...]:
  """Dispatches the steps of an epoch, the host at most IN_FLIGHT dispatches ahead of the devices.

  Args:
    train_loop: the compiled loop, to which the states are donated.
    states: one a student, on the devices.
    teacher_variables: on the devices.
    data: the `data` of the training feed.
    dispatches: the batches of each dispatch, from `epoch` of the training feed.
    receive: called with the metrics of each dispatch, in order, and of all of them at the end.
    stopped: asked before each dispatch whether to leave it and those after it out.

  Returns:
    The states.
  """
  in_flight = collections.deque()
  for batches in dispatches:
    if stopped():
      break
    states, dispatched = train_loop(states, teacher_variables, data, batches)
    in_flight.append(dispatched)
    if len(in_flight) == IN_FLIGHT:
      receive(in_flight.popleft())
  while in_flight:
    receive(in_flight.popleft())
  return states
