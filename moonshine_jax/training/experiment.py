"""A run that is ready to begin: the data, the teacher and the students of a config, checked and at hand."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections

from moonshine_jax import config as config_lib
from moonshine_jax.data import feeds, sources
from moonshine_jax.data.splits import CroppedSplit, Facts, Split
from moonshine_jax.errors import UserError
from moonshine_jax.models.factory import create_network
from moonshine_jax.runtime import exchange, settings
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.training import blockwise, starts
from moonshine_jax.training import step as step_lib
from moonshine_jax.training.evaluation import evaluate_feed
from moonshine_jax.training.progress import ProgressBar
from moonshine_jax.training.students import (
  Student,
  check_workdirs,
  configs_of_students,
  open_students,
  save_students,
)
from moonshine_jax.training.teacher import check_students, compare_data, load_teacher, tell_error
from moonshine_jax.workdir import provenance
from moonshine_jax.workdir.trained import Trained
from moonshine_jax.workdir.workdir import Workdir

MAX_STEPS = 2**31 - 1  # a state counts them in an int32


@dataclasses.dataclass
class Experiment:
  """A run: what `prepare` has checked, and where its training is.

  Attributes:
    config: config of the run.
    workdir: folder of the run.
    replicas: devices of all processes.
    students: networks that are trained.
    teacher: their teacher; None where no student needs one.
    train_feed: batches of the training split.
    test_feed: batches of the test split.
    steps_per_epoch: number of training steps in an epoch.
    test_split: the test split, or what is held out of the training split.
    facts: facts of the data.
    states: state of each student, on the devices, once the run is open.
    first_step: steps done when the run was opened.
  """

  config: ml_collections.ConfigDict
  workdir: Path
  replicas: Replicas
  students: list[Student]
  teacher: Trained | None
  train_feed: feeds.Feed
  test_feed: feeds.Feed
  steps_per_epoch: int
  test_split: Split | CroppedSplit
  facts: Facts
  states: tuple[step_lib.TrainState, ...] = ()
  first_step: int = 0

  @contextlib.contextmanager
  def open(self) -> Iterator[ProgressBar]:
    """Opens the workdirs and restores what is in them; closes all at the end. Yields the progress bar."""
    with contextlib.ExitStack() as opened:
      states = open_students(self.students, self.replicas, opened)
      self.first_step = int(states[0].step)
      self.states = self.replicas.replicate(states)
      bar = ProgressBar(
        self.config.epochs,
        self.steps_per_epoch,
        self.first_step,
        self.config.batch_size,
        sources.evaluated_on(self.config.data),
      )
      yield opened.enter_context(contextlib.closing(bar))

  @property
  def epochs_left(self) -> range:
    """The epochs that are not done, from 0; of the first some steps may be done."""
    return range((self.first_step - self.steps_of_epoch) // self.steps_per_epoch, self.config.epochs)

  @property
  def steps(self) -> int:
    """Number of steps of the whole run."""
    return self.config.epochs * self.steps_per_epoch

  @property
  def steps_of_epoch(self) -> int:
    """Number of steps done of the present epoch."""
    return self.students[0].steps_of_epoch

  @property
  def batch_size(self) -> int:
    """Examples in the batch of a step, over all devices."""
    return self.config.batch_size

  def name_of(self, student: Student) -> str:
    """Returns the name of a student among several; empty for the only one."""
    return student.workdir.path.name if len(self.students) > 1 else ''

  def evaluates(self, epoch: int) -> bool:
    """Whether the students are evaluated after an epoch."""
    return epoch + 1 == self.config.epochs or (epoch + 1) % self.config.eval_every == 0

  def saves(self, epoch: int) -> bool:
    """Whether the students are saved after an epoch."""
    return epoch + 1 == self.config.epochs or (epoch + 1) % self.config.checkpoint_every == 0

  def dispatches(self, epoch: int) -> Iterator[dict[str, jax.Array]]:
    """Returns the batches of each dispatch of an epoch, without the steps that are done."""
    config = self.config
    return self.train_feed.epoch(config.seed, epoch, config.batch_size, self.steps_of_epoch, config.steps_per_dispatch)

  def take_in(self, dispatched: Any, epoch: int) -> int:
    """Takes in the metrics of a dispatch, which are on the devices; see `Student.take_in`. Returns its steps."""
    for student, metrics in zip(self.students, self.replicas.fetch(dispatched), strict=True):
      student.take_in(metrics, epoch * self.steps_per_epoch)
      steps = len(metrics['loss'])
    return steps

  def compile_train_loop(self) -> Callable:
    """Returns the train loop (states, data, batches) -> (states, metrics); it compiles when it is first called."""
    networks, txs = [student.network for student in self.students], [student.optimizer for student in self.students]
    teacher, gather = self.teacher.network if self.teacher else None, self.train_feed.gather
    if self.config.distill.blockwise:
      assert teacher
      train_step = blockwise.make_blockwise_step(
        self.config, networks, teacher, txs, gather, self.replicas, self.facts.image_shape, self.facts.mean
      )
    else:
      configs = [student.config for student in self.students]
      train_step = step_lib.make_train_step(
        configs, networks, teacher, txs, gather, self.replicas, self.steps_per_epoch, self.facts.mean
      )
    train_loop = step_lib.compile_train_loop(train_step, self.replicas)
    teacher_variables = self.replicas.replicate(self.teacher.variables if self.teacher else {})
    return lambda states, data, batches: train_loop(states, teacher_variables, data, batches)

  def compile_eval_steps(self) -> list[Callable]:
    """Returns the evaluation step of each student; each compiles when it is first called."""
    gather = self.test_feed.gather
    steps = [step_lib.make_eval_step(student.network, gather, self.replicas) for student in self.students]
    return [self.replicas.compile(step) for step in steps]

  def evaluate(self, eval_step: Callable, state: step_lib.TrainState, name: str) -> dict[str, float]:
    """Returns the test error and the test loss of a student, and of its average. Raises UserError if not finite."""
    results: dict[str, float] = {}
    for prefix, variables in (('', state.variables), ('ema_', state.ema)):
      if variables:
        evaluated = evaluate_feed(
          eval_step, variables, self.test_feed, len(self.test_split), self.config.batch_size, self.replicas, name
        )
        results |= {prefix + metric: value for metric, value in evaluated.items()}
    return results

  def save(self, wait: bool = False) -> None:
    """Saves the students, and waits for it if asked; see `students.save_students`."""
    save_students(self.students, self.states, self.replicas, wait)


def prepare(config: ml_collections.ConfigDict, workdir: str | os.PathLike, trust_code: bool = False) -> Experiment:
  """Checks all that a run needs, and reads its data and its teacher.

  Args:
    config: of the form of `configs/cifar10.py`.
    workdir: folder of the run, which need not be there.
    trust_code: whether the function of the teacher's network is loaded, whatever it is: see `Trained.open`.

  Raises:
    UserError: for what cannot be run, before anything is compiled; for what the data need not be read for, before it is
      downloaded.
  """
  config_lib.check(config)
  config_lib.check_trains(config)
  configs = configs_of_students(config, workdir)
  replicas = Replicas()
  check_same_config(config, replicas)
  source = sources.open_source(config.data)
  check_batches(config, replicas, source)
  teacher = load_teacher(list(configs.values()), source, replicas, trust_code)
  check_students(list(configs.values()), teacher, source)
  check_workdirs(configs, workdir)
  if exchange.is_first():
    for student_workdir in configs:
      provenance.tell_changes(student_workdir)

  train_split, test_split = exchange.first_before_others(lambda: sources.read_splits(source, config.data))
  steps_per_epoch = count_steps(config, len(train_split))
  facts = sources.measure_facts(source, train_split, test_split)
  if teacher:
    compare_data(teacher, config, facts)
    tell_error(teacher, config, test_split, facts, replicas)
  students = [
    open_student(student, student_workdir, workdir, facts, steps_per_epoch, teacher, replicas, trust_code)
    for student_workdir, student in configs.items()
  ]
  feed = feeds.FEEDS[config.data.feed]
  train_feed, test_feed = feed(train_split, replicas), feed(test_split, replicas)
  return Experiment(
    config=config,
    workdir=Path(workdir),
    replicas=replicas,
    students=students,
    teacher=teacher,
    train_feed=train_feed,
    test_feed=test_feed,
    steps_per_epoch=steps_per_epoch,
    test_split=test_split,
    facts=facts,
  )


def open_student(
  config: ml_collections.ConfigDict,
  workdir: Workdir,
  run: str | os.PathLike,
  facts: Facts,
  steps_per_epoch: int,
  teacher: Trained | None,
  replicas: Replicas,
  trust_code: bool,
) -> Student:
  """Returns a student, which has its images normalised as the network that it starts or learns its blocks from.

  Args:
    config: the student's.
    workdir: the student's.
    run: workdir of the whole run.
    facts: of the data.
    steps_per_epoch: number of steps.
    teacher: of the run.
    replicas: the devices of all processes.
    trust_code: whether the function of the network it starts from is loaded, whatever it is: see `Trained.open`.

  Raises:
    UserError: where there is no such network.
  """
  if start := starts.start_of(config, run):
    facts = exchange.from_first(lambda: starts.facts_of_start(start, facts), replicas)
  elif config.distill.blockwise and teacher:
    facts = dataclasses.replace(facts, mean=teacher.facts.mean, std=teacher.facts.std)
  student = Student(config, workdir, create_network(config.model, facts, replicas.axis_name), facts, steps_per_epoch)
  if start:
    student.start = functools.partial(starts.state_of_network, start, trust_code, student.network, facts.image_shape)
  elif config.distill.blockwise and teacher:
    student.start = functools.partial(starts.state_of_blocks, teacher, student.network, facts.image_shape)
  return student


def check_same_config(config: ml_collections.ConfigDict, replicas: Replicas) -> None:
  """Raises UserError in a process whose config or settings of JAX are not the first process's.

  Only where its data is may differ.
  """
  values = {f'config.{name}': value for name, value in config_lib.flatten(config).items()} | settings.current_settings()
  for name, first in exchange.from_first(lambda: values, replicas).items():
    if name != 'config.data.data_dir' and values[name] != first:
      raise UserError(f'{name}={values[name]!r} (in process 0: {first!r}): expected the same in all processes')


def check_batches(config: ml_collections.ConfigDict, replicas: Replicas, source: sources.Source) -> None:
  """Raises UserError where the devices cannot share a batch, or the padding is wider than an image."""
  if config.batch_size % len(replicas):
    raise UserError(f'config.batch_size={config.batch_size}: expected a multiple of the {len(replicas)} devices')
  side = min(source.image_shape[:2])
  for name in ('pad', 'cutout'):
    if config.data[name] > side:
      raise UserError(f'config.data.{name}={config.data[name]}: expected at most {side}, the side of an image')


def count_steps(config: ml_collections.ConfigDict, train_examples: int) -> int:
  """Returns the number of steps in an epoch. Raises UserError where there is none, or more than can be counted."""
  if config.batch_size > train_examples:
    raise UserError(f'config.batch_size={config.batch_size}: expected at most the {train_examples} training examples')
  steps_per_epoch = train_examples // config.batch_size
  most = MAX_STEPS // steps_per_epoch
  for student in config_lib.students(config).values():
    if most < max(config.epochs, *student.optimizer.decay_epochs, 0):
      raise UserError(
        f'config.epochs={config.epochs}, config.optimizer.decay_epochs={student.optimizer.decay_epochs}: '
        f'expected at most {most} epochs of {steps_per_epoch} steps'
      )
  return steps_per_epoch
