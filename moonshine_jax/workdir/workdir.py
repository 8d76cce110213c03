"""One run on disk: the folder, and what is in it."""

import json
import os
from pathlib import Path

import ml_collections

from moonshine_jax.config import check_fields, flatten, from_json, to_json
from moonshine_jax.errors import UserError
from moonshine_jax.models import factory
from moonshine_jax.runtime import files

FILE = 'config.json'  # in a workdir
MAY_DIFFER = {'data.data_dir', 'data.feed', 'steps_per_dispatch'}  # fields that change no bit of a run


def difference(ours: ml_collections.ConfigDict, theirs: ml_collections.ConfigDict) -> str:
  """Where a run of one config cannot go on as a run of the other, in words; empty where it can."""
  ours, theirs = flatten(ours), flatten(theirs)
  return ', '.join(
    f'config.{name}={ours.get(name)!r} (there: {theirs.get(name)!r})'
    for name in sorted({*ours, *theirs} - MAY_DIFFER)
    if ours.get(name) != theirs.get(name)
  )


def read(workdir: str | os.PathLike) -> ml_collections.ConfigDict:
  """The config of the run in a workdir. Raises UserError where the file is damaged."""
  path = Path(workdir) / FILE
  try:
    config = from_json(json.loads(path.read_text()))
    check_fields(config)
  except (OSError, TypeError, ValueError, AttributeError, UserError) as error:
    raise UserError(
      f'{path}: damaged ({error}): expected the config of a run; training writes it anew where it is '
      'deleted, if the checkpoints are of the same config'
    ) from error
  try:
    factory.check(config.model)
  except UserError as error:  # the file is whole, but a function of a user's is not where it was
    raise UserError(f'{path}: {error}') from error
  return config


def write(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> None:
  """Writes the config into a workdir. Raises UserError where that cannot be done."""
  files.write_atomically(Path(workdir) / FILE, json.dumps(to_json(config), indent=2) + '\n')


def check_workdir(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> None:
  """Raises UserError where a run of another config is in the workdir."""
  if not (Path(workdir) / FILE).exists():
    return
  if differing := difference(config, read(workdir)):
    raise UserError(
      f'{workdir} holds a run of another config: {differing}: expected the same config, to go on, or another workdir'
    )
