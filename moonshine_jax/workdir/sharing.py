"""One file of a trained network in a workdir, for others."""

import copy
import dataclasses
import os
import shlex
from typing import Any

from moonshine_jax import config as config_lib
from moonshine_jax.cost import counting
from moonshine_jax.data import names
from moonshine_jax.errors import UserError, warn
from moonshine_jax.models import factory
from moonshine_jax.workdir.network_file import NetworkFile, write_network_file
from moonshine_jax.workdir.trained import Trained


def share_network(
  workdir: str | os.PathLike,
  path: str | os.PathLike,
  data: str | None = None,
  data_dir: str | None = None,
  trust_code: bool = False,
) -> NetworkFile:
  """Makes one file of the network of a run, as it is at its end or at the end of an epoch before.

  Of the run the file has the config, the facts of the data, the metrics of that epoch, and every start, as the
  workdir records them, but for paths of this machine: the interpreter's in the commands, and `data.data_dir`. The
  flags of the commands stay.

  Args:
    workdir: of the run.
    path: of the file.
    data: a name of the data that others have, in place of the config's `data.name`, which stays in the last start.
    data_dir: where the data of that name is.
    trust_code: see `Trained.open`.

  Returns:
    The file.

  Raises:
    UserError: where the newest checkpoint is not at the end of an epoch, where there is no data of the other name, or
      it has other images or classes, and where the file cannot be written.
  """
  trained = Trained.open(workdir, trust_code)
  record = record_of_checkpoint(trained)
  shared = trained if data is None else _with_other_data(trained, data, data_dir)
  config, facts = copy.deepcopy(shared.config), shared.facts
  if data is None and (names.parse(config.data.name) or names.is_function(config.data.name)):
    warn(f'{path}: names its data {config.data.name}, which others may not have: --data=NAME gives another name')
  if factory.is_user_defined(config.model):
    warn(f'{path}: names {config.model.network}, and has not its code: to read it takes the same file there')
  config.data.data_dir = ''
  starts = [_without_home(start) for start in trained.workdir.starts]
  for start in starts[:-1]:
    start.pop('config', None)  # the last start's is that of all
    start.pop('data', None)
  if of_start := starts[-1].get('config'):
    starts[-1]['config'] = {**of_start, 'data': {**of_start.get('data', {}), 'data_dir': ''}}
  starts[-1]['cost'] = dataclasses.asdict(counting.count_cost(trained.network.model, facts.image_shape))
  write_network_file(path, trained.step, config, facts, trained.variables, [record], starts)
  return NetworkFile(path)


def record_of_checkpoint(trained: Trained) -> dict[str, Any]:
  """Returns the metrics of the epoch that ends with the newest checkpoint. Raises UserError where none does."""
  for record in reversed(trained.workdir.records):
    if record['step'] == trained.step:
      return record
  raise UserError(
    f'{trained.workdir}: its newest checkpoint, at step {trained.step}, is not at the end of an epoch that its metrics '
    'have: expected one that is, as a run has at its end'
  )


def _with_other_data(trained: Trained, data: str, data_dir: str | None) -> Trained:
  """Returns a network whose data has another name. Raises UserError where the data of that name is other data."""
  if names.is_function(data):
    raise UserError(f'{data}: names a function: expected a name of the data that others have')
  elsewhere = trained.with_data(data, data_dir)
  config_lib.check(elsewhere.config)
  elsewhere.source()  # which compares the images and the classes
  return elsewhere


def _without_home(start: dict[str, Any]) -> dict[str, Any]:
  """A start whose command has the interpreter without its folder."""
  first, *words = shlex.split(start.get('command', '')) or ['']
  return {**start, 'command': shlex.join([os.path.basename(first), *words])}
