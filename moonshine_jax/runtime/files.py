"""Files of a workdir: written whole or not at all, by one process at a time; an error is one line with the path."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moonshine_jax.errors import UserError, warn

LOCK = '.lock'  # in a workdir; the lock is on the file and ends with its process, so the file may stay


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
  """Raises UserError for what the system refuses: no permission, no space left, a file where a folder should be."""
  try:
    yield
  except OSError as error:
    raise UserError(f'{path}: cannot be written: {error.strerror or error}') from error


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
  """Writes a file that is the old one or the new one, whole, whenever the process or the machine stops."""
  partial = f'{path}.tmp'
  with writing(path):
    with open(partial, 'wb') as file:
      file.write(content.encode() if isinstance(content, str) else content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)


def append_record(path: str | os.PathLike, record: dict[str, Any]) -> None:
  """Adds a line of JSON, which is on the disk on return."""
  with writing(path), open(path, 'a', encoding='utf-8') as file:
    file.write(json.dumps(record) + '\n')
    file.flush()
    os.fsync(file.fileno())


def read_records(path: str | os.PathLike) -> list[dict[str, Any]]:
  """The records of a file of JSON lines, none where there is no file; a line that is being written is left out.

  Raises UserError for a line that is none of `append_record`.
  """
  path = Path(path)
  if not path.exists():
    return []
  *lines, _ = path.read_bytes().split(b'\n')  # what follows the last newline is nothing, or torn
  records = []
  for i, line in enumerate(lines, start=1):
    try:
      records.append(json.loads(line))
      if not isinstance(records[-1], dict):
        raise ValueError(f'{line[:40]!r} is no object')
    except ValueError as error:
      raise UserError(f'{path}, line {i}: damaged ({error}): expected a JSON object, as on other lines') from error
  return records


@contextlib.contextmanager
def lock(workdir: str | os.PathLike) -> Iterator[None]:
  """Makes the workdir and keeps it for this process. Raises UserError where another has it or it cannot be written."""
  with contextlib.ExitStack() as stack:
    with writing(workdir):
      Path(workdir).mkdir(parents=True, exist_ok=True)
      file = stack.enter_context(open(Path(workdir) / LOCK, 'w'))
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise UserError(f'{workdir}: another run is training in it: expected one run in a workdir at a time') from error
    except OSError as error:  # a file system without locks
      warn(f'{workdir}: cannot be locked ({error.strerror}): see to it that no other run trains in it')
    yield
