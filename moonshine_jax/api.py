"""`moonshine_jax.distil`: from a trained network in hand to students of it, in one call."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from absl import logging

from moonshine_jax import config as config_lib
from moonshine_jax import paper
from moonshine_jax.data import sources, splits
from moonshine_jax.errors import UserError
from moonshine_jax.models.network import Network
from moonshine_jax.report import runs as runs_lib
from moonshine_jax.report import table_formats
from moonshine_jax.runtime import user_functions
from moonshine_jax.training import loop, pretrained
from moonshine_jax.workdir import checkpoint

# The paper's recipe, and what it does not say, as in configs/cifar10.py.
DEFAULTS = {
  **paper.RECIPE,
  'seed': 0,
  'steps_per_dispatch': 39,
  'eval_every': 1,
  'checkpoint_every': 5,
  'model.seed': 0,
  'model.network': '',
  'model.depth': 40,
  'model.width': 2,
  'model.block': 'S',
  'data.name': '',
  'data.data_dir': '',
  'data.feed': 'resident',
  'data.image_size': 0,
  'distill.teacher': '',
  'distill.students': (),
}


class Student(NamedTuple):
  """A student that was trained.

  Attributes:
    workdir: where it is kept, for `evaluate`, `report` and `attention`.
    network: called with its variables and uint8 images: `network(variables, images, train=False)` gives the logits and
      the activations; `network.model` is the linen module, for images less `network.mean` and over `network.std`.
    variables: host arrays.
    record: of the last epoch: 'test_error' in percent, and what else `metrics.jsonl` has.
  """

  workdir: Path
  network: Network
  variables: dict[str, Any]
  record: dict[str, Any]


@contextlib.contextmanager
def quietly() -> Iterator[None]:
  """Orbax tells of every checkpoint that it opens or writes: not within this."""
  before = logging.get_verbosity()
  logging.set_verbosity(logging.FATAL)
  try:
    yield
  finally:
    logging.set_verbosity(before)


@quietly()
def distil(
  network: Callable | str,
  variables: Mapping[str, Any],
  data: Callable | str,
  blocks: str | Sequence[str],
  workdir: str | os.PathLike,
  overrides: Mapping[str, Any] | None = None,
  mean: float | Sequence[float] | None = None,
  std: float | Sequence[float] | None = None,
) -> list[Student]:
  """Distils a trained network into students with cheap convolutions, and prints their table.

  Called again with the same arguments it goes on where it was, as `train.train_and_evaluate` does.

  Args:
    network: a function of num_classes (and dtype and axis_name, if it takes them) that returns a linen module: one that
      can be found again by its name, or that name, 'package.module:function' or 'path/file.py:function'.
    variables: of its module, trained.
    data: likewise, a function that returns {'train': (images, labels), 'test': (images, labels)}: uint8 (examples,
      height, width, channels), and integers from 0; or the name of a data set, as in `config.data.name`.
    blocks: a notation as 'G(N/8)', or several, one for each student; or words as in `config.distill.students`, as
      'block=G(N/8) alpha=0'.
    workdir: a folder; the teacher goes into its `teacher`, each student into a folder in `students`.
    overrides: fields of the config by dotted name, as {'epochs': 20, 'distill.alpha': 0.0}; the others are the paper's,
      the epochs at which the learning rate falls in proportion to all of them.
    mean: what the trained network has subtracted from each channel of the pixels, in the units of uint8; by default the
      mean of the training images.
    std: by what it then divides them; by default their standard deviation. Pixels from 0 to 1 are mean 0, std 255.

  Returns:
    The students, in the order of the blocks.

  Raises:
    UserError: for what cannot be run, in a line that says what would be right.
  """
  overrides = dict(overrides or {})
  if unknown := sorted(overrides.keys() - DEFAULTS.keys()):
    raise UserError(f'overrides: {unknown[0]!r}: no such field: expected some of {", ".join(DEFAULTS)}')
  named = {'model.network': user_functions.name_of(network), 'data.name': user_functions.name_of(data)}
  blocks = (blocks,) if isinstance(blocks, str) else tuple(blocks)
  words = tuple(block if '=' in block else f'block={block}' for block in blocks)
  teacher, workdir = Path(workdir) / 'teacher', Path(workdir)
  config = make_config({**overrides, **named, 'distill.teacher': str(teacher), 'distill.students': words})
  config_lib.check(config)
  if 'optimizer.decay_epochs' not in overrides:
    config.optimizer.decay_epochs = in_proportion(config.epochs)
  config_lib.students(config)

  source = sources.open_source(config.data)
  facts = sources.measure_facts(source, source.read(config.data.train_split))
  mean = facts.mean if mean is None else of_channels('mean', mean, facts.image_shape[-1])
  std = facts.std if std is None else of_channels('std', std, facts.image_shape[-1])
  # Of the recipe nothing is the teacher's: other students may have another one.
  of_teacher = {name: value for name, value in overrides.items() if name.startswith(('model.', 'data.'))}
  pretrained.write_network(
    teacher,
    make_config(of_teacher | named),
    splits.Facts(facts.image_shape, facts.num_classes, mean, std),
    variables,
    source.read(config.data.test_split),
  )

  students = []
  for path, record in loop.train_and_evaluate(config, workdir / 'students').items():
    student, own_variables, _ = checkpoint.Checkpoints(path).network()
    students.append(Student(path, student, own_variables, record))
  print(table_formats.summary_markdown(runs_lib.collect_runs(workdir)))
  return students


def of_channels(name: str, value: float | Sequence[float], channels: int) -> tuple[float, ...]:
  """A number for each channel. Raises UserError where they are not as many, or not finite."""
  numbers = np.ravel(np.asarray(value, float))
  if numbers.size not in (1, channels) or not np.isfinite(numbers).all() or (name == 'std' and not numbers.all()):
    raise UserError(
      f'{name}={value!r}: expected one number, or {channels}, one for each channel'
      + (', that are not 0' if name == 'std' else '')
    )
  return tuple(np.broadcast_to(numbers, channels).tolist())


def in_proportion(epochs: int) -> tuple[int, ...]:
  """Of a run of so many epochs, those that the recipe's decays of the learning rate come after."""
  shares = (epoch / DEFAULTS['epochs'] for epoch in DEFAULTS['optimizer.decay_epochs'])
  return tuple(sorted({max(1, round(share * epochs)) for share in shares}))


def make_config(fields: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """The defaults with other values of some fields, by dotted names."""
  config = ml_collections.ConfigDict()
  for name, value in {**DEFAULTS, **fields}.items():
    section, _, field = name.rpartition('.')
    if section and section not in config:
      config[section] = ml_collections.ConfigDict()
    (config[section] if section else config)[field] = value
  return config
