"""The networks that come with the package: files in the folder `zoo`, named as workdirs are, by zoo:NAME."""

import difflib
import os
from pathlib import Path

import moonshine_jax
from moonshine_jax.errors import UserError

FOLDER = Path(moonshine_jax.__file__).parent / 'zoo'
PREFIX, SUFFIX = 'zoo:', '.safetensors'


def in_zoo(workdir: str | os.PathLike) -> bool:
  """Returns whether this is the name of a network that comes with the package, and no path."""
  return os.fspath(workdir).startswith(PREFIX)


def zoo_names() -> list[str]:
  """Returns the names of the networks that come with the package, each with its prefix."""
  return sorted(PREFIX + path.stem for path in FOLDER.glob(f'*{SUFFIX}'))


def zoo_file(name: str) -> Path:
  """Returns the file of a network that comes with the package. Raises UserError for a name that none has."""
  names = zoo_names()
  if name not in names:
    if os.path.exists(path := name.removeprefix(PREFIX)):
      raise UserError(f'{name}: no such network in the package: expected a path without {PREFIX}, as {path}')
    nearest = ' or '.join(difflib.get_close_matches(name, names, 3, 0))
    raise UserError(f'{name}: no such network in the package: expected one of `moonshine zoo`, as {nearest}')
  return FOLDER / f'{name.removeprefix(PREFIX)}{SUFFIX}'


def absolute_workdir(workdir: str | os.PathLike) -> str:
  """Returns a workdir as it is named from every folder."""
  return os.fspath(workdir) if in_zoo(workdir) else os.path.abspath(workdir)
