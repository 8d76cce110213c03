"""Names of data sets: of data that a user has on a disk, a form, a path and options."""

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from moonshine_jax.errors import UserError
from moonshine_jax.runtime import files, user_functions

FORMS = 'cifar', 'folder', 'npz', 'parquet'
_NAME = re.compile(rf'({"|".join(FORMS)}):(.*?)(?:\?(\w+=[^?]*))?', re.DOTALL)


class PathName(NamedTuple):
  """The name of data on a disk: 'folder:/data/flowers?test=10%'.

  Attributes:
    text: the whole name.
    form: one of FORMS.
    path: where the data is.
    options: the values after the question mark, by name.
  """

  text: str
  form: str
  path: str
  options: dict[str, str]

  def find(self, data_dir: str) -> Path:
    """Returns the path, in a folder unless it is absolute. Raises UserError where there is nothing."""
    path = Path(data_dir, self.path)
    files.check_local(path)
    if not path.exists():
      stem = self.text.partition('?')[0]
      hint = f'; for a function of {self.form}.py, {self.form}.py:{self.path}' * user_functions.is_name(stem)
      raise UserError(f'config.data.name={self.text!r}: no {path.absolute()}: expected a path from here{hint}')
    return path

  def check_options(self, known: Collection[str]) -> None:
    """Raises UserError for options that data of this form has not."""
    if unknown := sorted(self.options.keys() - set(known)):
      expected = ' or '.join(f'?{option}=' for option in known) or 'none'
      raise UserError(f'config.data.name={self.text!r}: no option {unknown[0]!r}: expected {expected}')


def parse(name: str) -> PathName | None:
  """Returns the parts of the name of data on a disk; None for other names."""
  match = _NAME.fullmatch(name)
  if not match:
    return None
  form, path, options = match.groups()
  return PathName(
    name, form, path, dict(option.split('=', 1) for option in (options or '').split('&') if '=' in option)
  )


def is_function(name: str) -> bool:
  """Returns whether a data set's name is that of a user-defined function."""
  return user_functions.is_name(name) and parse(name) is None


def known_as(name: str, num_classes: int) -> str:
  """Returns the name by which TFDS has a data set, where that is known of one of so many classes; else its own."""
  path_name = parse(name)
  return f'cifar{num_classes}' if path_name and path_name.form == 'cifar' else name


def title(name: str) -> str:
  """Returns what a data set is called in a sentence: a function without its module, a path without its folders."""
  if path_name := parse(name):
    return os.path.basename(os.path.abspath(path_name.path))
  return user_functions.short_name(name) if is_function(name) else name
