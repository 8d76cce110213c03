"""User-defined functions by name: 'package.module:function', or 'path/file.py:function'.

Loading a function runs its file, so a name that is read from a disk passes `trust.check_function` first.
"""

import hashlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from moonshine_jax.errors import UserError, shown

# A function's name begins with no digit, which tells it from a data set of TFDS with its version ('mnist:3.0.1').
NAME = re.compile(r'[^:]+:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*')


def is_name(text: str) -> bool:
  """Returns whether a text has the form of a function's name."""
  return bool(NAME.fullmatch(text))


def short_name(name: str) -> str:
  """Returns the name without its module or file."""
  return name.rpartition(':')[2]


_loaded: dict[str, Callable] = {}


def load(name: str) -> Callable:
  """Returns the function of a name; a file is run only once.

  Raises:
    UserError: as 'NAME: what is wrong: what would be right'.
  """
  if name not in _loaded:
    _loaded[name] = _load(name)
  return _loaded[name]


def is_loaded(name: str) -> bool:
  """Returns whether this process has loaded the function of a name."""
  return name in _loaded


_running: list[str] = []  # files and modules that `load` is running, the innermost last


def check_not_running(function: str) -> None:
  """Raises UserError where a user's file, which `load` is running, calls a function that trains."""
  if _running:
    raise UserError(
      f'{_running[-1]} calls {function} whenever it is read, as to find its network again: expected the call, and what '
      "it needs, under if __name__ == '__main__':"
    )


def _load(name: str) -> Callable:
  where, _, path = name.rpartition(':')
  _running.append(where)
  try:
    value: Any = _load_file(name, Path(where)) if where.endswith('.py') else _load_module(name, where)
  finally:
    _running.pop()
  for part in path.split('.'):
    if not hasattr(value, part):
      members = [key for key, member in vars(value).items() if callable(member) and not key.startswith('_')][:20]
      raise UserError(f'{shown(name)}: no {part} in {where}: expected one of {", ".join(members) or "its functions"}')
    value = getattr(value, part)
  if not callable(value):
    raise UserError(f'{shown(name)}: a {type(value).__name__}: expected a function')
  return value


def _load_module(name: str, module: str) -> ModuleType:
  try:
    return importlib.import_module(module)
  except UserError as error:
    raise UserError(f'{shown(name)}: {error}') from error
  except Exception as error:  # whatever the user's code raises
    raise UserError(
      f'{shown(name)}: importing {module} raises {type(error).__name__}: {error}: expected a module that '
      'Python finds from here, or a file as path/file.py'
    ) from error


def _load_file(name: str, path: Path) -> ModuleType:
  check_is_file(name, path)
  main = sys.modules['__main__']
  main_file = getattr(main, '__file__', None)
  if main_file and os.path.exists(main_file) and os.path.samefile(main_file, path):
    return main  # the script that is running: it does not run a second time
  path = path.resolve()
  module_name = f'{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}'  # the name of no other module
  if module_name in sys.modules:
    return sys.modules[module_name]
  module = sys.modules[module_name] = ModuleType(module_name)
  module.__file__ = str(path)
  try:
    # The text that the checksum is of: Python's import would take the bytecode that lies beside it.
    exec(compile(path.read_bytes(), path, 'exec'), vars(module))
  except Exception as error:
    del sys.modules[module_name]
    if isinstance(error, UserError):
      raise UserError(f'{shown(name)}: {error}') from error
    raise UserError(
      f'{shown(name)}: running {path} raises {type(error).__name__}: {error}: expected a file that runs'
    ) from error
  return module


def check_is_file(name: str, path: Path) -> None:
  """Raises UserError where the file of a function's name is none."""
  if not path.is_file():
    raise UserError(f'{shown(name)}: no file {path.absolute()}: expected one, by its path from here')


def name_of(function: Callable | str) -> str:
  """Returns the name by which `load` finds a function again.

  Args:
    function: the function, or its name, which is returned as it is.

  Raises:
    UserError: where there is none, as for a lambda.
  """
  if isinstance(function, str):
    return function
  module, name = getattr(function, '__module__', ''), getattr(function, '__qualname__', '')
  if module == '__main__':  # a script has a file; a notebook has none
    file = getattr(sys.modules[module], '__file__', None)
    module = os.path.abspath(file) if file else ''
  if not is_name(f'{module}:{name}') or load(f'{module}:{name}') is not function:
    raise UserError(
      f'{shown(function)}: expected a function that can be found again by its name, as one that a module '
      'or a script has at its top level'
    )
  return f'{module}:{name}'


def accepts(function: Callable, argument: str) -> bool:
  """Returns whether a function has a parameter of a name."""
  return argument in inspect.signature(function).parameters
