"""Which user-defined functions may be loaded, of those that a file on the disk names: a stranger may have written it.

What the user names, in a flag, in a config or in Python, is loaded as it is.
"""

import contextlib
import hashlib
import os
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path

from moonshine_jax.errors import UserError, shown
from moonshine_jax.runtime import files, user_functions


def check_function(name: str, recorded: Mapping[str, str], folder: str | os.PathLike, trust_code: bool) -> None:
  """Checks that a function which a file on the disk names may be loaded.

  It may where this process has loaded it already, as the user named it; where the user trusts all code; and where its
  file is outside of the folder that is read, is as it was when the run began, and was named by this user before, on
  this machine: what is in the folder may all be a stranger's, its records too.

  Args:
    name: of the function.
    recorded: checksums by name, as the folder holds them.
    folder: where the name was read.
    trust_code: whether the user trusts all code.

  Raises:
    UserError: where it may not, in a line that names the file; and where there is no such file.
  """
  if user_functions.is_loaded(name):
    return
  paths = source_files(name)
  if trust_code:
    with contextlib.suppress(UserError):  # it need not be said again, where that can be kept in mind
      remember(name)
    return
  inside = [path for path in paths if _is_inside(path, folder)]
  if inside:
    reason = f'lies in {folder}, which is read'
  elif name not in recorded:
    reason = f'was not recorded in {folder}'
  elif checksum(name) != recorded[name]:
    reason = f'is not what was recorded in {folder} when the run began'
  elif not os.path.exists(_mark(name)):
    reason = 'is none that you named to a run on this machine'
  else:
    return
  raise UserError(
    f'{shown(name)}: not run: {(inside or paths)[-1].absolute()} {reason}: expected --trust_code (in Python '
    'trust_code=True) where you trust its author'
  )


def _is_inside(path: Path, folder: str | os.PathLike) -> bool:
  """Whether a file is in a folder, by its own path or behind links."""
  return any(Path(where(path)).is_relative_to(where(folder)) for where in (os.path.abspath, os.path.realpath))


def remember(name: str) -> None:
  """Keeps in mind, for this user on this machine, a function that the user named: its file, as it is now.

  Raises:
    UserError: where the system refuses.
  """
  mark = _mark(name)
  if not os.path.exists(mark):
    with files.writing(mark):
      mark.parent.mkdir(parents=True, exist_ok=True)
      mark.touch()  # the name says all


def _mark(name: str) -> Path:
  """The file that stands for a function, in the folder of the user's state (XDG Base Directory Specification)."""
  state = os.environ.get('XDG_STATE_HOME') or os.path.expanduser('~/.local/state')
  place = os.path.realpath(source_files(name)[-1])  # what the file reads and imports may depend on it
  text = f'{place}:{user_functions.short_name(name)} {checksum(name)}'
  return Path(state) / 'moonshine_jax' / 'code' / hashlib.sha256(os.fsencode(text)).hexdigest()


def checksum(name: str) -> str:
  """Returns the SHA-256 of the file of a function, which is not run.

  Of a module in packages it is that of their `__init__.py` and its own file, one after the other.

  Raises:
    UserError: where there is no such file.
  """
  digest = hashlib.sha256()
  for path in source_files(name):
    try:
      digest.update(path.read_bytes())
    except OSError as error:
      raise UserError(f'{shown(name)}: {path}: cannot be read: {error.strerror}') from error
  return digest.hexdigest()


def source_files(name: str) -> list[Path]:
  """Returns the files that loading a function runs, its own the last, and runs none. Raises UserError for none."""
  where, _, _ = name.rpartition(':')
  if where.endswith('.py'):
    user_functions.check_is_file(name, Path(where))
    return [Path(where)]
  packages, folders, paths = where.split('.'), None, []
  for i in range(len(packages)):
    spec = _find_spec('.'.join(packages[: i + 1]), folders)
    if spec is None:
      raise UserError(f'{shown(name)}: no module {where}: expected one that Python finds from here, or path/file.py')
    folders = list(spec.submodule_search_locations or ())
    if spec.has_location and spec.origin:
      paths.append(Path(spec.origin))
  if not paths:
    raise UserError(f'{shown(name)}: {where} is a part of Python: expected a module with a file')
  return paths


def _find_spec(module: str, folders: Iterable[str] | None) -> ModuleSpec | None:
  """Finds a module in the folders of its package, or on Python's path; unlike `importlib.util`, imports no package."""
  if module in sys.modules:
    return sys.modules[module].__spec__
  if folders is None:
    found = (finder.find_spec(module, None) for finder in sys.meta_path)
    return next((spec for spec in found if spec), None)
  portions: list[str] = []  # of a package without a file
  for folder in folders:
    finder = pkgutil.get_importer(folder)
    spec = finder.find_spec(module) if finder else None
    if spec and spec.loader:
      return spec
    if spec:
      portions += spec.submodule_search_locations or []
  namespace = ModuleSpec(module, None, is_package=True)
  namespace.submodule_search_locations = portions
  return namespace if portions else None
