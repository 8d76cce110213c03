"""Training and distillation: the loop."""

import collections
import contextlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from moonshine_jax.errors import Preempted
from moonshine_jax.runtime import exchange
from moonshine_jax.runtime import signals as signal_handlers
from moonshine_jax.runtime.devices import IN_FLIGHT, Replicas
from moonshine_jax.training import blockwise, starts
from moonshine_jax.training.averages import save_averages
from moonshine_jax.training.experiment import Experiment, prepare
from moonshine_jax.training.progress import ProgressBar
from moonshine_jax.training.students import check_workdirs, configs_of_students
from moonshine_jax.workdir.workdir import BLOCKS_FOLDER


def train_and_evaluate(
  config: ml_collections.ConfigDict, workdir: str | os.PathLike, trust_code: bool = False
) -> dict[Path, dict[str, Any]]:
  """Trains the network of a config, by distillation where it names a teacher, and evaluates it after each epoch.

  Goes on from the newest checkpoint in the workdir, if there is one. Where the config names several students, each has
  a workdir in this one and ends as if it were trained there alone. Of several processes, which all call this with the
  same config, the first alone needs the workdir and the teacher; all read the data.

  Args:
    config: of the form of `configs/cifar10.py`.
    workdir: a folder, made where there is none, for checkpoints, metrics and the config.
    trust_code: whether the function of the teacher's network is loaded, whatever it is: see `Trained.open`.

  Returns:
    The last epoch's record, as in `metrics.jsonl`, of each workdir; errors are in percent.

  Raises:
    UserError: before anything is downloaded or compiled, for what cannot be run; later, for a number that is not
      finite and for a disk that is full.
    Preempted: after SIGTERM or SIGINT, once the steps that were on their way are saved; after SIGTERM before there are
      any, at once.
  """
  with signal_handlers.preempted_at_once():
    learn_blocks(config, workdir, trust_code)
    return train_to_end(prepare(config, workdir, trust_code))


def train_to_end(run: Experiment) -> dict[Path, dict[str, Any]]:
  """Trains what is prepared, to its end; see `train_and_evaluate`. The run then has its last states."""
  with signal_handlers.catch() as signals, run.open() as progress:
    train_loop, eval_steps = run.compile_train_loop(), run.compile_eval_steps()
    if not run.first_step:
      evaluate_starts(run, eval_steps, progress)
    for epoch in run.epochs_left:
      start, steps_before = time.perf_counter(), run.steps_of_epoch

      def receive(dispatched: Any, epoch: int = epoch) -> None:
        progress.advance(run.take_in(dispatched, epoch))

      run.states = run_epoch(
        train_loop, run.states, run.train_feed.data, run.dispatches(epoch), receive, lambda: signals.received
      )
      step = epoch * run.steps_per_epoch + run.steps_of_epoch
      if signals.received:
        run.save(wait=True)
        raise Preempted(
          f'{signals.received} after step {step} of {run.steps} in {run.workdir}: the same command goes on from there'
        )

      images = (run.steps_of_epoch - steps_before) * run.batch_size
      # None are left of an epoch whose steps were all taken when a signal came.
      speed = {'images_per_second': round(images / (time.perf_counter() - start), 1)} if images else {}
      for student, state, eval_step in zip(run.students, run.states, eval_steps, strict=True):
        record = {
          'epoch': epoch + 1,
          'step': step,
          'learning_rate': float(student.learning_rate(epoch * run.steps_per_epoch)),
          **{f'train_{name}': float(np.mean(steps, dtype=np.float64)) for name, steps in student.epoch_metrics.items()},
          **speed,
        }
        if run.evaluates(epoch):
          record |= run.evaluate(eval_step, state, f'{student.workdir}, step {step}')
        student.end_epoch(record)
        progress.epoch(record, run.name_of(student))
      if run.saves(epoch):
        run.save()

    save_averages(run)
  return {student.workdir.path: student.writer.records[-1] for student in run.students}


def evaluate_starts(run: Experiment, eval_steps: Sequence[Callable], progress: ProgressBar) -> None:
  """Writes the record of epoch 0 of each student that starts from a network: its error before it is trained."""
  for student, state, eval_step in zip(run.students, run.states, eval_steps, strict=True):
    if student.config.distill.start and not student.writer.records:
      record = {'epoch': 0, 'step': 0, **run.evaluate(eval_step, state, f'{student.workdir}, step 0')}
      student.end_epoch(record)
      progress.epoch(record, run.name_of(student))


def learn_blocks(config: ml_collections.ConfigDict, workdir: str | os.PathLike, trust_code: bool) -> None:
  """Makes the networks that the students of a run start from, where they start from blocks; see `blockwise`."""
  if not starts.config_of_blocks(config, workdir):
    return
  check_workdirs(configs_of_students(config, workdir), workdir)  # before the blocks take hours
  with contextlib.ExitStack() as held:
    exchange.from_first(lambda: starts.hold_blocks(config, workdir, held), Replicas())
    if blocks := starts.config_of_blocks(config, workdir):  # again: another run may have taught them meanwhile
      run = prepare(blocks, Path(workdir) / BLOCKS_FOLDER, trust_code)
      train_to_end(run)
      blockwise.assemble(run, workdir)


def run_epoch(
  train_loop: Callable,
  states: Any,
  data: Any,
  dispatches: Iterable[Any],
  receive: Callable[[Any], None],
  stopped: Callable[[], Any] = lambda: False,
) -> Any:
  """Dispatches the steps of an epoch, the host at most IN_FLIGHT dispatches ahead of the devices.

  Args:
    train_loop: the compiled loop (states, data, batches) -> (states, metrics), to which the states are donated.
    states: one for each student, on the devices.
    data: of the training feed.
    dispatches: the batches of each dispatch.
    receive: called with the metrics of each dispatch, in order, and of all of them at the end.
    stopped: asked before each dispatch whether to leave out it and those after it.

  Returns:
    The states.
  """
  in_flight: collections.deque[Any] = collections.deque()
  for batches in dispatches:
    if stopped():
      break
    states, dispatched = train_loop(states, data, batches)
    in_flight.append(dispatched)
    if len(in_flight) == IN_FLIGHT:
      receive(in_flight.popleft())
  while in_flight:
    receive(in_flight.popleft())
  return states
