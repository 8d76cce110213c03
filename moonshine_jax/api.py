"""`moonshine_jax.distil`: from a trained network to its students, in one call."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from moonshine_jax import config as config_lib
from moonshine_jax import fields
from moonshine_jax.data import sources
from moonshine_jax.errors import UserError, say
from moonshine_jax.models import factory, user
from moonshine_jax.report import runs as runs_lib
from moonshine_jax.report import table_formats
from moonshine_jax.runtime import user_functions
from moonshine_jax.training import loop, pretrained
from moonshine_jax.workdir.trained import Trained


def distil(
  network: Callable | str,
  variables: Mapping[str, Any],
  data: Callable | str,
  blocks: str | Sequence[str],
  workdir: str | os.PathLike,
  overrides: Mapping[str, Any] | None = None,
  mean: float | Sequence[float] | None = None,
  std: float | Sequence[float] | None = None,
) -> list[Trained]:
  """Distils a trained network into students with cheap convolutions, and prints their table.

  Called again with the same arguments it goes on where it was, as `train_and_evaluate` does.

  Args:
    network: a function of num_classes (and dtype and axis_name, if it takes them) that returns a linen module: one that
      can be found again by its name, or that name, 'package.module:function' or 'path/file.py:function'.
    variables: the trained variables of its module.
    data: a function, or its name, that returns {'train': (images, labels), 'test': (images, labels)}: uint8 (examples,
      height, width, channels), and integers from 0; or the name of a data set, as in `config.data.name`.
    blocks: a notation as 'G(N/8)', or several, one for each student; or words as in `config.distill.students`, as
      'block=G(N/8) alpha=0'.
    workdir: a folder; the teacher goes into its `teacher`, each student into a folder in `students`.
    overrides: fields of the config by dotted name, as {'epochs': 20, 'distill.alpha': 0.0}, or 'distill.kd_form' with a
      function; the others are the paper's, the epochs at which the learning rate falls in proportion to all of them.
    mean: what the trained network has subtracted from each channel of the pixels, in the units of uint8; by default the
      mean of the training images.
    std: by what it then divides them; by default their standard deviation. Pixels from 0 to 1 are mean 0, std 255.

  Returns:
    The students, in the order of the blocks, each with its `network`, `variables`, `workdir` and last `record`.

  Raises:
    UserError: for what cannot be run, in a line that says what would be right.
  """
  user_functions.check_not_running('distil')
  overrides = {
    name: user_functions.name_of(value) if callable(value) else value for name, value in (overrides or {}).items()
  }
  if unknown := sorted(overrides.keys() - fields.FIELDS.keys()):
    raise UserError(f'overrides: {unknown[0]!r}: no such field: expected some of {", ".join(fields.FIELDS)}')
  named = {'model.network': user_functions.name_of(network), 'data.name': user_functions.name_of(data)}
  blocks = (blocks,) if isinstance(blocks, str) else tuple(blocks)
  words = tuple(block if '=' in block else f'block={block}' for block in blocks)
  workdir = Path(workdir)
  teacher = workdir / 'teacher'
  config = config_lib.create_config({**overrides, **named, 'distill.teacher': str(teacher), 'distill.students': words})
  config_lib.check(config)
  if 'optimizer.decay_epochs' not in overrides:
    config.optimizer.decay_epochs = decays_in_proportion(config.epochs)
  config_lib.students(config)

  # Nothing of the recipe is the teacher's: other students may have another one.
  of_teacher = {name: value for name, value in overrides.items() if name.startswith(('model.', 'data.'))}
  write_teacher(teacher, config_lib.create_config(of_teacher | named), variables, mean, std)
  students = [Trained.open(path) for path in loop.train_and_evaluate(config, workdir / 'students')]
  say(table_formats.summary_markdown(runs_lib.collect_runs(workdir)))
  return students


def write_teacher(
  workdir: Path,
  config: ml_collections.ConfigDict,
  variables: Mapping[str, Any],
  mean: float | Sequence[float] | None,
  std: float | Sequence[float] | None,
) -> None:
  """Makes the workdir of the trained network; see `distil` for mean and std. Raises UserError."""
  source = sources.open_source(config.data)
  train, test = sources.read_splits(source, config.data)
  measured = sources.measure_facts(source, train, test)
  facts = pretrained.normalised_by(measured, mean, std)
  model = factory.create_network(config.model, facts).model
  user.check_user_modes(f'config.model.network={config.model.network!r}', model, facts.image_shape)
  pretrained.write_network(workdir, config, facts, variables, test)


def decays_in_proportion(epochs: int) -> tuple[int, ...]:
  """Returns the epochs after which the learning rate falls in a run of so many epochs, in proportion to the recipe."""
  shares = (epoch / fields.RECIPE['epochs'] for epoch in fields.RECIPE['optimizer.decay_epochs'])
  return tuple(sorted({max(1, round(share * epochs)) for share in shares}))
