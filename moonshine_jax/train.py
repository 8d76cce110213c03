"""Training and distillation: the loop."""

import collections
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from moonshine_jax import checkpoint, datasets, feeds, metrics, optim, steps
from moonshine_jax import config as config_lib
from moonshine_jax.errors import UserError
from moonshine_jax.models import create_model
from moonshine_jax.parallel import Replicas

CONFIG_FILE = 'config.json'
MAY_DIFFER = {'data.data_dir', 'data.feed', 'steps_per_dispatch'}  # fields that change no bit of a run
IN_FLIGHT = 4  # dispatches that the host is ahead of the devices: enough to keep them busy, few enough to be told of


def train_and_evaluate(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> dict[str, Any]:
  """Trains the network of a config, by distillation where it names a teacher, and evaluates it after each epoch.

  Goes on from the newest checkpoint in the workdir, if there is one.

  Args:
    config: of the form of `configs/cifar10.py`.
    workdir: a folder, made where there is none, for checkpoints, metrics and the config.

  Returns:
    The last epoch's record, as in `metrics.jsonl`; errors are in percent.

  Raises:
    UserError: before anything is downloaded or compiled, for what cannot be run.
  """
  config_lib.check(config)
  replicas = Replicas()
  if config.batch_size % len(replicas):
    raise UserError(f'config.batch_size={config.batch_size}: expected a multiple of the {len(replicas)} devices')
  source = datasets.open_source(config.data)
  teacher, teacher_variables = load_teacher(config, source)
  check_workdir(config, workdir)

  train_split, test_split = source.read(config.data.train_split), source.read(config.data.test_split)
  if config.batch_size > len(train_split):
    raise UserError(f'config.batch_size={config.batch_size}: expected at most the {len(train_split)} training examples')
  facts = datasets.measure(source, train_split)
  train_feed, test_feed = (feeds.FEEDS[config.data.feed](split, replicas) for split in (train_split, test_split))

  steps_per_epoch = len(train_split) // config.batch_size
  learning_rate_fn = optim.create_learning_rate_fn(config, steps_per_epoch)
  tx = optim.create_optimizer(config, steps_per_epoch)
  init_key, order_key, step_key = jax.random.split(jax.random.key(config.seed), 3)
  student = steps.Network(create_model(config.model, facts.num_classes, replicas.axis_name), facts.mean, facts.std)
  state = steps.create_train_state(student, facts.image_shape, tx, init_key, step_key)

  write_config(config, workdir)
  checkpoints = checkpoint.Checkpoints(workdir, create=True)
  if checkpoints.newest is not None:
    state = checkpoints.state(state)
  first_epoch = int(state.step) // steps_per_epoch
  writer = metrics.Writer(workdir, int(state.step))
  progress = metrics.Progress(config.epochs, steps_per_epoch, int(state.step), config.batch_size)

  state = replicas.replicate(state)
  teacher_variables = replicas.replicate(teacher_variables)
  train_step = steps.make_train_step(config, student, teacher, tx, train_feed.gather, replicas)
  train_loop = replicas.compile(steps.make_train_loop(train_step), donate_argnums=(0,))
  eval_step = replicas.compile(steps.make_eval_step(student, test_feed.gather, replicas))

  for epoch in range(first_epoch, config.epochs):
    start = time.perf_counter()
    order = feeds.epoch_batches(order_key, epoch, len(train_split), config.batch_size)
    epoch_metrics = []
    for batches in train_feed.stacks(order, config.steps_per_dispatch):
      state, each = train_loop(state, teacher_variables, train_feed.data, batches)
      epoch_metrics.append(each)
      jax.block_until_ready(epoch_metrics[-IN_FLIGHT:][0])
      progress.advance(each['loss'].size // len(replicas))
    record = {
      'epoch': epoch + 1,
      'step': (epoch + 1) * steps_per_epoch,
      'learning_rate': float(learning_rate_fn(epoch * steps_per_epoch)),
      **epoch_means(replicas.fetch(epoch_metrics)),
      'images_per_second': round(order.size / (time.perf_counter() - start), 1),
    }
    last = epoch + 1 == config.epochs
    if last or (epoch + 1) % config.eval_every == 0:
      record |= evaluate(eval_step, state.variables, test_feed, len(test_split), config.batch_size, replicas)
      errors = [each['test_error'] for each in writer.records if 'test_error' in each]
      record['best_test_error'] = min([*errors, record['test_error']])
    writer.write(record)  # before the checkpoint: a record without one is dropped, a step without one would be lost
    if last or (epoch + 1) % config.checkpoint_every == 0:
      checkpoints.save(replicas.fetch(state), config, facts)
    progress.epoch(record)

  checkpoints.close()
  writer.close()
  progress.close()
  return writer.records[-1]


def cache_compilations(folder: str | os.PathLike) -> None:
  """Keeps compiled steps in a folder from run to run, unless the user named another ($JAX_COMPILATION_CACHE_DIR)."""
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', str(Path(folder).absolute()))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)  # an initialiser compiles once for each shape


def load_teacher(config: ml_collections.ConfigDict, source: datasets.Source) -> tuple[steps.Network | None, Any]:
  """The teacher and its variables, or (None, {}) without distillation. Raises UserError where it does not fit."""
  if config_lib.regime(config) == 'none':
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
  path = Path(workdir) / CONFIG_FILE
  if not path.exists():
    return
  theirs = config_lib.flatten(config_lib.from_json(json.loads(path.read_text())))
  ours = config_lib.flatten(config)
  differing = [
    f'config.{name}={ours.get(name)!r} (there: {theirs.get(name)!r})'
    for name in sorted({*ours, *theirs} - MAY_DIFFER)
    if ours.get(name) != theirs.get(name)
  ]
  if differing:
    raise UserError(f'{workdir} holds a run of another config: {", ".join(differing)}: '
                    'expected the same config, to go on, or another workdir')


def write_config(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> None:
  """Makes the workdir and writes the config into it. Raises UserError where that cannot be done."""
  path = Path(workdir) / CONFIG_FILE
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix('.tmp')
    partial.write_text(json.dumps(config_lib.to_json(config), indent=2) + '\n')
    os.replace(partial, path)
  except OSError as error:
    raise UserError(f'{workdir}: cannot be written as a workdir: {error.strerror}') from error


def epoch_means(dispatches: list[dict[str, np.ndarray]]) -> dict[str, float]:
  """The means over an epoch's steps of metrics (steps,) of each dispatch: {'train_loss': ..., ...}."""
  return {
    f'train_{name}': float(np.mean(np.concatenate([each[name] for each in dispatches]), dtype=np.float64))
    for name in dispatches[0]
  }


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
