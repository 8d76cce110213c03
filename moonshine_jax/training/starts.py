"""What students start from: random values, a network in a workdir, or blocks that have learnt alone."""

import contextlib
import copy
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import ml_collections

from moonshine_jax import config as config_lib
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError
from moonshine_jax.models import factory
from moonshine_jax.models.blocks import Block
from moonshine_jax.models.network import Network
from moonshine_jax.models.surgery import places as places_lib
from moonshine_jax.runtime import exchange, files
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.training import pretrained
from moonshine_jax.training.step import TrainState
from moonshine_jax.workdir.network_file import open_workdir
from moonshine_jax.workdir.trained import Trained
from moonshine_jax.workdir.workdir import BLOCKS_FOLDER, BLOCKS_LOCK_FILE, START_FOLDER, Workdir

BLOCKWISE = 'blockwise'  # the value of distill.start
# The fields by which blocks learn. Students of any loss and seed share them.
LEARNT_BY = ('batch_size', 'blockwise.', 'data.', 'distill.teacher', 'model.dtype')


def start_of(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> Workdir | None:
  """Returns the workdir of the network that a student starts from; None where it starts from random parameters.

  Args:
    config: the student's.
    workdir: of the run.
  """
  if config.distill.start == BLOCKWISE:
    return start_of_blocks(config, workdir)
  return open_workdir(config.distill.start) if config.distill.start else None


def start_of_blocks(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> Workdir:
  """Returns the workdir, in that of a run, of the network that is put together from the blocks of a student."""
  return Workdir(Path(workdir) / START_FOLDER / config_lib.folder_name(_words(config)))


def starting_students(config: ml_collections.ConfigDict) -> list[ml_collections.ConfigDict]:
  """Returns the configs of the students of a run that start from their blocks."""
  return [each for each in config_lib.students(config).values() if each.distill.start == BLOCKWISE]


def config_of_blocks(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> ml_collections.ConfigDict | None:
  """Returns the config of the run in which the blocks of a run's students learn alone; None where none are to learn.

  Students of the same network share their blocks.

  Args:
    config: of the run that starts from them.
    workdir: of that run, where they may have learnt already.

  Raises:
    UserError: for a config that cannot be run, and where blocks have learnt in another way in the workdir.
  """
  config_lib.check(config)
  students = starting_students(config)
  begun = exchange.from_first(lambda: [has_learnt(each, workdir) for each in students], Replicas())
  starting = [each for each, learnt in zip(students, begun, strict=True) if not learnt]
  if not starting:
    return None
  blocks = copy.deepcopy(config)
  blocks.update_from_flattened_dict(
    {
      'epochs': config.blockwise.epochs,
      'eval_every': 1,
      'distill.start': '',
      'distill.blockwise': True,
      'optimizer.ema': 0.0,
      'optimizer.warmup_epochs': 0,
      'distill.students': tuple(dict.fromkeys(map(_words, starting))),
    }
  )
  return blocks


def has_learnt(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> bool:
  """Returns whether the blocks of a student have learnt in the workdir of a run.

  Raises UserError where they have learnt in another way than its config says.
  """
  start = start_of_blocks(config, workdir)
  blocks = Workdir(Path(workdir) / BLOCKS_FOLDER / start.path.name)
  if start.begun and blocks.begun:
    theirs, values = copy.deepcopy(config), config_lib.flatten(blocks.config)
    theirs.update_from_flattened_dict({name: value for name, value in values.items() if name.startswith(LEARNT_BY)})
    if difference := config_lib.difference(config, theirs):
      raise UserError(
        f'{start} is of blocks that have learnt in another way: {difference}: expected the same, or another workdir'
      )
  return start.begun


def hold_blocks(config: ml_collections.ConfigDict, workdir: str | os.PathLike, held: contextlib.ExitStack) -> None:
  """Keeps the blocks that are to learn for this process: waits for other runs in which the same learn.

  Args:
    config: of the run that starts from them.
    workdir: of that run.
    held: at its end other runs may have them.

  Raises:
    UserError: where a link leads out of the workdir.
  """
  folders = {start_of_blocks(each, workdir).path for each in starting_students(config)}
  for path in (Path(workdir) / BLOCKS_FOLDER, *folders):
    files.check_inside(path, workdir)
  for start in map(Workdir, sorted(folders)):  # all runs in one order, so that none waits for one that waits for it
    if not start.begun:
      held.enter_context(start.lock(BLOCKS_LOCK_FILE, 'in which its blocks learn'))


def facts_of_start(start: Workdir, facts: Facts) -> Facts:
  """Returns the facts of the data with the normalisation of the network that a student starts from.

  Raises UserError where there is no such network, or it is of other images or classes.
  """
  try:
    theirs = start.facts
  except UserError as error:
    raise UserError(f'config.distill.start={str(start)!r}: {error}') from error
  if (theirs.image_shape, theirs.num_classes) != (facts.image_shape, facts.num_classes):
    raise UserError(
      f'config.distill.start={str(start)!r}: of {theirs.num_classes} classes and images of {theirs.image_shape}: '
      f'expected {facts.num_classes} and {facts.image_shape}, as the data has'
    )
  return dataclasses.replace(facts, mean=theirs.mean, std=theirs.std)


def state_of_network(
  start: Workdir, trust_code: bool, network: Network, image_shape: Sequence[int], state: TrainState
) -> TrainState:
  """Returns a student's state with the parameters and running statistics of the network in a workdir.

  Raises UserError where there is none, or it has other blocks.
  """
  try:
    variables = pretrained.fit(Trained.open(start, trust_code).variables, network, tuple(image_shape))
  except UserError as error:
    raise UserError(f'config.distill.start={str(start)!r}: {error}') from error
  return state.replace(params=variables['params'], batch_stats=variables.get('batch_stats', {}))


def state_of_blocks(teacher: Trained, network: Network, image_shape: Sequence[int], state: TrainState) -> TrainState:
  """Returns a student's state with its teacher's parameters and running statistics outside of its cheap blocks.

  Raises UserError for a student that is not its teacher with other blocks.
  """
  places = places_lib.find_places(network.model, teacher.network.model, image_shape)
  variables = places_lib.start_from(state.variables, teacher.variables, places)
  return state.replace(params=variables['params'], batch_stats=variables.get('batch_stats', {}))


def _words(config: ml_collections.ConfigDict) -> str:
  """Returns the words of `distill.students` for a student's network. Raises UserError where words cannot name it."""
  if any(map(str.isspace, config.model.network)):
    raise UserError(
      f"config.model.network={config.model.network!r}: expected a path without spaces with distill.start='{BLOCKWISE}'"
    )
  values = config_lib.flatten(config)
  values['model.block'] = ','.join(map(str, Block.parse_list(config.model.block)))  # without spaces
  fields = {word: field for word, field in config_lib.STUDENT_FIELDS.items() if field.startswith('model.')}
  if factory.is_user_defined(config.model):
    del fields['depth'], fields['width']
  return ' '.join(f'{word}={values[field]}' for word, field in fields.items())
