"""Files that are written whole or not at all, and records of JSON lines; an error is one line with the path."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moonshine_jax.errors import UserError


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
  """Turns the system's refusals to write, while entered, into errors that name the file.

  Args:
    path: what is written inside.

  Raises:
    UserError: without permission or space left, or for a file where a folder should be.
  """
  try:
    yield
  except OSError as error:
    raise UserError(f'{path}: cannot be written: {error.strerror or error}') from error


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
  """Writes a file so that it is the old one or the new one, whole, whenever the process or the machine stops.

  Args:
    path: of the file.
    content: text is written as UTF-8.

  Raises:
    UserError: where the system refuses.
  """
  partial = f'{path}.tmp'
  with writing(path):
    with open(partial, 'wb') as file:
      file.write(content.encode() if isinstance(content, str) else content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(partial, path)


def append_record(path: str | os.PathLike, record: dict[str, Any]) -> None:
  """Appends a record to a file as a line of JSON, which is on the disk on return.

  Args:
    path: of the file, made where there is none.
    record: of values that JSON has.

  Raises:
    UserError: where the system refuses.
  """
  with writing(path), open(path, 'a', encoding='utf-8') as file:
    file.write(json.dumps(record) + '\n')
    file.flush()
    os.fsync(file.fileno())


def read_records(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads the records that `append_record` has written into a file.

  Args:
    path: of the file; without a file there are no records.

  Returns:
    The records in order, without one that is only half written.

  Raises:
    UserError: for a line that is no JSON object.
  """
  path = Path(path)
  if not path.exists():
    return []
  *lines, _ = path.read_bytes().split(b'\n')  # what follows the last newline is nothing, or half a line
  records = []
  for number, line in enumerate(lines, start=1):
    try:
      records.append(json.loads(line))
      if not isinstance(records[-1], dict):
        raise ValueError(f'{line[:40]!r} is no object')
    except ValueError as error:
      raise UserError(f'{path}, line {number}: damaged ({error}): expected a JSON object, as on other lines') from error
  return records
