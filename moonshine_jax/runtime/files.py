"""Files that are written whole or not at all, and lines added to one; an error is one line with the path.

A folder may come from a stranger, with links in it: nothing is written through a link that leads out of it.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from moonshine_jax.errors import UserError
from moonshine_jax.runtime import json_files


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
  """Turns the system's refusals to write, while entered, into errors that name the file.

  Args:
    path: what is written inside.

  Raises:
    UserError: without permission or space left, for a file where a folder should be, for a link that is not followed,
      and for what `check_local` refuses.
  """
  check_local(path)
  try:
    yield
  except OSError as error:
    reason = 'it is a link' if error.errno == errno.ELOOP else error.strerror or error
    raise UserError(f'{path}: cannot be written: {reason}') from error


def check_local(path: str | os.PathLike) -> None:
  """Raises UserError for the address of a bucket, and for ~, which would be the names of folders here."""
  first, *others = Path(path).parts or ('.',)
  if first.endswith(':') and others:
    raise UserError(
      f'{first}//{"/".join(others)}: expected a path on a disk: mount the bucket, as with gcsfuse (launch/README.md)'
    )
  if first == '~':
    raise UserError(f'{path}: ~ is not expanded here: expected $HOME in its place, or the whole path')


def open_no_link(path: str | os.PathLike, flags: int) -> int:
  """Opens a file, as the `opener` of `open`; raises OSError for a link, and for a pipe that nobody reads."""
  return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def check_inside(path: str | os.PathLike, folder: str | os.PathLike) -> None:
  """Raises UserError for a path that is a link, or is behind one, that leads out of a folder."""
  target = os.path.realpath(path)
  if not Path(target).is_relative_to(os.path.realpath(folder)):
    raise UserError(f'{path}: cannot be written: a link leads to {target}, out of {folder}')


def make_folder(path: str | os.PathLike, inside: str | os.PathLike) -> None:
  """Makes a folder inside another, unless it is there.

  Args:
    path: of the folder.
    inside: the other folder.

  Raises:
    UserError: where a link leads out of the other folder, and where the system refuses.
  """
  check_inside(path, inside)
  with writing(path):
    os.makedirs(path, exist_ok=True)


@contextlib.contextmanager
def new_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
  """Opens a file that takes its name, and the place of an older file, once it is whole and on the disk.

  Args:
    path: name of the file. A link there is replaced, not followed.

  Yields:
    The file, open for writing bytes.

  Raises:
    UserError: where the system refuses.
  """
  # A name that nobody can foretell, and a file that must be new: no link can lie there to be written through.
  partial = Path(path).parent / f'.{secrets.token_hex(16)}.tmp'
  with writing(path):
    try:
      with open(partial, 'xb') as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      os.replace(partial, path)
    except BaseException:
      partial.unlink(missing_ok=True)
      raise


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
  """Writes a file so that it is the old one or the new one, whole, whenever the process or the machine stops.

  Args:
    path: of the file.
    content: text is written as UTF-8.

  Raises:
    UserError: where the system refuses.
  """
  with new_file(path) as file:
    file.write(content.encode() if isinstance(content, str) else content)


def append_record(path: str | os.PathLike, record: dict[str, Any]) -> None:
  """Appends a record to a file as a line of JSON, which is on the disk on return.

  Args:
    path: of the file, made where there is none; not a link.
    record: of values that JSON has.

  Raises:
    UserError: for a number that is not finite, which JSON has not, and where the system refuses.
  """
  line = json_files.json_line(record)
  with writing(path), open(path, 'a', encoding='utf-8', opener=open_no_link) as file:
    file.write(line)
    file.flush()
    os.fsync(file.fileno())
