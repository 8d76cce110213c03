"""Blockwise distillation: each cheap block learns alone what its teacher has in its place.

A student has the shapes of its teacher. So each of its blocks can be given what comes in at its place in the teacher,
and learn what goes out there; all blocks of all students learn at once, from one pass of the teacher. What is put
together from them starts near the teacher (LIT: Koratana et al., 2019; DNA: Li et al., 2020; LANA: Molchanov et al.,
2022).
"""

import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from moonshine_jax import config as config_lib
from moonshine_jax.data import sources
from moonshine_jax.errors import UserError, say
from moonshine_jax.losses.activations import normalised_squared_error
from moonshine_jax.models.network import Network
from moonshine_jax.models.surgery import places as places_lib
from moonshine_jax.models.surgery.places import Place
from moonshine_jax.runtime import devices, exchange
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.training import packing, pretrained
from moonshine_jax.training import step as step_lib
from moonshine_jax.training.step import TrainState
from moonshine_jax.workdir.workdir import START_FOLDER

if TYPE_CHECKING:
  from moonshine_jax.training.experiment import Experiment


def make_blockwise_update(places: Sequence[Place], tx: optax.GradientTransformation, axis_name: str | None) -> Callable:
  """Makes the update of one student: (state, images, labels, what the teacher has at the places) -> (state, metrics).

  The loss is the sum over the places of the squared error of the outputs over the mean square of the teacher's, both
  over the whole batch: no place's gradient depends on another place. What is at no place stays as it is. The metrics
  are 'loss', the mean over the places; the error of each place, by its path; and 'gradient_norm'.

  Args:
    places: where the student differs from its teacher.
    tx: the optimiser.
    axis_name: of the replicas.
  """

  def update(
    state: TrainState, images: jax.Array, labels: jax.Array, targets: dict[str, tuple[jax.Array, jax.Array]]
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    del images, labels  # a place sees what its teacher sees there

    statistics = packing.unpack_trees(state.batch_stats)

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
      errors, batch_stats = {}, statistics
      for place in places:
        inputs, outputs = targets[place.path]
        learnt, updates = place.run({'params': params, 'batch_stats': statistics}, inputs)
        errors[place.path] = jnp.mean(normalised_squared_error([learnt], [outputs], axis_name))
        if updates:
          batch_stats = places_lib.with_subtree(batch_stats, place.path, updates)
      return jnp.sum(jnp.stack(list(errors.values()))), (errors, batch_stats)

    grads, (errors, batch_stats) = packing.grad(loss_fn, state.params)
    grads, errors = devices.mean((grads, errors), axis_name)
    metrics = {'loss': jnp.mean(jnp.stack(list(errors.values()))), **errors, 'gradient_norm': optax.tree.norm(grads)}
    return state.updated(tx, grads, batch_stats), metrics

  return update


def make_blockwise_step(
  config: ml_collections.ConfigDict,
  students: Sequence[Network],
  teacher: Network,
  txs: Sequence[optax.GradientTransformation],
  gather: Callable,
  replicas: Replicas,
  image_shape: Sequence[int],
  fill: Sequence[float] = (0.0,),
) -> Callable:
  """Makes the train step in which the blocks of all students learn alone, from one pass of their teacher.

  Args and what it returns are those of `step.make_train_step`, but for image_shape: (height, width, channels).

  Raises:
    UserError: for a student that is not its teacher with other blocks, and for one that is its teacher.
  """
  places = [places_lib.find_places(student.model, teacher.model, image_shape) for student in students]
  for student, there in zip(config_lib.students(config).values(), places, strict=True):
    if not there:
      raise UserError(
        f'config.model.block={student.model.block}: these are the blocks of the teacher, none of which is to learn: '
        "expected others with distill.start='blockwise'"
      )
  paths = tuple(sorted({place.path for place in itertools.chain(*places)}))
  tapped = places_lib.tap(teacher, paths)
  updates = [
    make_blockwise_update(of_student, tx, replicas.axis_name) for of_student, tx in zip(places, txs, strict=True)
  ]
  return step_lib.join_updates(config, updates, tapped, gather, replicas, fill)


def assemble(run: 'Experiment', workdir: str | os.PathLike) -> None:
  """Puts the networks together whose blocks have learnt alone, and writes each as a workdir with its test error.

  BN's running statistics are estimated again, since a block now sees what the blocks before it give.

  Args:
    run: the run in which they have learnt, trained to its end.
    workdir: of the run that starts from them.
  """
  states = calibrate(run)
  for student, state, eval_step in zip(run.students, states, run.compile_eval_steps(), strict=True):
    record = {'epoch': 0, 'step': 0, **run.evaluate(eval_step, state, f'the blocks of {student.workdir}')}
    if exchange.is_first():
      folder = Path(workdir) / START_FOLDER / student.workdir.path.name
      config = pretrained.config_of_pretrained(student.config)
      pretrained.save_network(folder, config, student.facts, run.replicas.fetch(state).variables, record)
      evaluated_on = sources.evaluated_on(run.config.data)
      say(f'{folder}: {evaluated_on} error {record["test_error"]:.2f}% of the blocks that were put together')


def calibrate(run: 'Experiment') -> Sequence[TrainState]:
  """Returns the states of a trained run with BN's running statistics estimated anew, on augmented training images."""
  updates = [make_calibration(student.network, run.replicas.axis_name) for student in run.students]
  step = step_lib.join_updates(run.config, updates, None, run.train_feed.gather, run.replicas, run.facts.mean)
  loop = step_lib.compile_train_loop(step, run.replicas)
  states, left, no_teacher = run.states, run.config.blockwise.calibration_steps, run.replicas.replicate({})
  for epoch in itertools.count():
    for batches in run.train_feed.epoch(run.config.seed, epoch, run.batch_size, 0, min(left, run.steps_per_epoch)):
      states, metrics = loop(states, no_teacher, run.train_feed.data, batches)
      left -= len(run.replicas.fetch(metrics[0])['loss'])
      if left <= 0:
        return states
  raise AssertionError  # the count of epochs has no end


def make_calibration(network: Network, axis_name: str | None) -> Callable:
  """Makes an update that changes the running statistics of BN alone: (state, images, ...) -> (state, metrics)."""

  def update(state: TrainState, images: jax.Array, labels: jax.Array, targets: Any) -> tuple[TrainState, Any]:
    del labels, targets
    rngs = step_lib.model_key(state, axis_name)
    _, updates = network(state.variables, images, train=True, mutable=['batch_stats'], rngs=rngs)
    batch_stats = packing.pack_as(updates.get('batch_stats', {}), state.batch_stats)
    return state.replace(step=state.step + 1, batch_stats=batch_stats), {'loss': jnp.zeros(())}

  return update
