"""JSON files: one door for all that are read, which somebody else may have written, damaged or changed.

What passes is an object of JSON (RFC 8259) within limits, and of a schema. A schema is a type as msgspec takes one: a
TypedDict, whose further fields are not looked at, or a dataclass. It is checked alone: values stay as JSON has them.
"""

import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from moonshine_jax.errors import UserError, shown

T = TypeVar('T')

MAX_BYTES = 64 * 2**20
MAX_DEPTH = 32  # of objects and arrays in each other: the files of a run have 6
MAX_INTEGER = 2**63 - 1  # in size


def read_json(path: str | os.PathLike, schema: type[T], expected: str) -> T:
  """Reads a file of one JSON object.

  Args:
    path: of the file.
    schema: type of the object.
    expected: the words for such a file, for the error.

  Returns:
    The object, with JSON's lists and numbers.

  Raises:
    UserError: 'PATH: damaged (what, where): expected ...' for another file; where there is none, or it cannot be read.
  """
  try:
    return parse_json(read_bytes(path), schema)
  except ValueError as error:
    raise UserError(f'{path}: damaged ({error}): expected {expected}') from error


def read_bytes(path: str | os.PathLike) -> bytes:
  """Returns what is in a file. Raises UserError where it is too large, is no plain file, or cannot be read."""
  try:
    if Path(path).exists() and not Path(path).is_file():  # a pipe would never end
      raise UserError(f'{path}: expected a plain file')
    with open(path, 'rb') as file:
      content = file.read(MAX_BYTES + 1)
  except (OSError, ValueError) as error:  # a ValueError of a path with a NUL in it
    raise UserError(f'{path}: cannot be read: {getattr(error, "strerror", None) or error}') from error
  if len(content) > MAX_BYTES:
    raise UserError(f'{path}: more than {MAX_BYTES >> 20} MiB: expected a file of a run, which has less')
  return content


def read_records(path: str | os.PathLike, schema: type[T]) -> list[T]:
  """Reads a file of JSON objects, one on a line.

  Args:
    path: of the file; without a file there are no records.
    schema: type of a record.

  Returns:
    The records in order, without one that is only half written.

  Raises:
    UserError: 'PATH, line N: damaged (what, where): expected ...' for a line that is no record.
  """
  if not os.path.lexists(path):
    return []
  *lines, _ = read_bytes(path).split(b'\n')  # what follows the last newline is nothing, or half a line
  records = []
  for number, text in enumerate(lines, start=1):
    try:
      records.append(parse_json(text, schema))
    except ValueError as error:
      raise UserError(f'{path}, line {number}: damaged ({error}): expected a record, as on other lines') from error
  return records


def json_line(record: dict[str, Any]) -> str:
  """Returns a record as a line of JSON. Raises UserError for a number that is not finite, which JSON has not."""
  try:
    return json.dumps(record, allow_nan=False) + '\n'
  except ValueError as error:
    broken = {name: value for name, value in record.items() if isinstance(value, float) and not math.isfinite(value)}
    raise UserError(f'a record with {shown(broken)}: expected finite numbers') from error


def parse_json(text: bytes, schema: type[T]) -> T:
  """Parses a JSON object. Raises ValueError, which says what is wrong and where, for anything else than the schema."""
  try:
    values = json.loads(text.decode(), object_pairs_hook=_object)
  except RecursionError as error:
    raise ValueError(f'nested more than {MAX_DEPTH} deep') from error
  return check_schema(values, schema)


def check_schema(values: Any, schema: type[T]) -> T:
  """Returns parsed JSON as it is. Raises ValueError where it is beyond the limits, or not of the schema."""
  level = [values]
  for _ in range(MAX_DEPTH):
    for value in level:
      _check_number(value)
    level = [item for value in level if isinstance(value, dict | list) for item in _items(value)]
    if not level:
      break
  else:
    raise ValueError(f'nested more than {MAX_DEPTH} deep')
  try:
    msgspec.convert(values, schema)
  except msgspec.ValidationError as error:
    raise ValueError(str(error)[:300]) from error
  return cast(T, values)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  values = dict(pairs)
  if len(values) < len(pairs):
    (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
    raise ValueError(f'{shown(name)} is there more than once')
  return values


def _items(value: dict[str, Any] | list[Any]) -> list[Any]:
  return list(value.values()) if isinstance(value, dict) else value


def _check_number(value: Any) -> None:
  if isinstance(value, float) and not math.isfinite(value):  # Python's parser takes NaN, and 1e999 for an infinity
    raise ValueError('a number that is not finite')
  if isinstance(value, int) and abs(value) > MAX_INTEGER:
    raise ValueError('an integer of more than 64 bits')
