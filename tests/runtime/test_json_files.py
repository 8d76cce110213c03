import json
import os
from typing import Annotated, NotRequired, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta

from moonshine_jax.errors import UserError
from moonshine_jax.runtime import files, json_files


class Point(TypedDict):
  x: Annotated[int, Meta(ge=0, le=9)]
  y: NotRequired[list[float]]


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'Expecting value'),
    ('{"x": 1', "Expecting ',' delimiter"),
    ('{"x": 1} {}', 'Extra data'),
    ('[1]', 'Expected `object`, got `array`'),
    ('{"y": [1]}', 'Object missing required field `x`'),
    ('{"x": "1"}', r'Expected `int`, got `str` - at `\$.x`'),
    ('{"x": 1.0}', r'Expected `int`, got `float` - at `\$.x`'),
    ('{"x": true}', r'Expected `int`, got `bool` - at `\$.x`'),
    ('{"x": null}', r'Expected `int`, got `null` - at `\$.x`'),
    ('{"x": -1}', r'Expected `int` >= 0 - at `\$.x`'),
    ('{"x": 1000000000}', r'Expected `int` <= 9 - at `\$.x`'),
    ('{"x": 1, "y": {"0": 1}}', r'Expected `array`, got `object` - at `\$.y`'),
    ('{"x": 1, "y": [1, "2"]}', r'Expected `float`, got `str` - at `\$.y\[1\]`'),
    ('{"x": 1, "y": [NaN]}', 'a number that is not finite'),
    ('{"x": 1, "z": -Infinity}', 'a number that is not finite'),
    ('{"x": 1, "z": 1e999}', 'a number that is not finite'),
    ('{"x": 1, "z": 9223372036854775808}', 'an integer of more than 64 bits'),
    ('{"x": 1, "z": ' + 5000 * '9' + '}', 'Exceeds the limit'),
    ('{"x": 1, "x": 2}', "'x' is there more than once"),
    ('{"x": 1, "z": ' + 32 * '[' + 32 * ']' + '}', 'nested more than 32 deep'),
    ('[' * 100_000, 'nested more than 32 deep'),
    ('{"x":' * 100_000, 'nested more than 32 deep'),
  ],
)
def test_what_is_wrong_is_said_with_its_place(text, message):
  with pytest.raises(ValueError, match=f'^{message}'):
    json_files.parse_json(text.encode(), Point)


def test_values_are_those_of_the_text():
  text = '{"x": 9, "y": [1, 2.5, -0.0, 1e-320], "other": {"a": [null, true, "\\udc80\\u0000"]}}'
  values = json_files.parse_json(text.encode(), Point)
  assert values == {'x': 9, 'y': [1, 2.5, 0.0, 1e-320], 'other': {'a': [None, True, '\udc80\0']}}
  assert type(values['y'][0]) is int
  deepest = 30 * '[' + 30 * ']'
  assert json_files.parse_json(f'{{"x": 1, "z": {deepest}}}'.encode(), Point)['z'] == json.loads(deepest)


JSON = st.recursive(
  st.none()
  | st.booleans()
  | st.integers(-(2**63) + 1, 2**63 - 1)
  | st.floats(allow_nan=False, allow_infinity=False)
  | st.text(),
  lambda items: st.lists(items, max_size=3) | st.dictionaries(st.text(), items, max_size=3),
  max_leaves=10,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), JSON, max_size=3))
def test_what_was_written_is_read(values):
  assert json_files.parse_json(json_files.json_line(values).encode(), dict) == values


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=30))
def test_any_bytes_are_values_or_one_error(data):
  try:
    assert isinstance(json_files.parse_json(data, dict), dict)
  except ValueError as error:
    assert str(error)


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
  path = tmp_path / 'file'

  def message():
    with pytest.raises(UserError) as error:
      json_files.read_json(path, Point, 'a point')
    return str(error.value)

  assert message() == f'{path}: cannot be read: No such file or directory'
  path.mkdir()
  assert message() == f'{path}: expected a plain file'
  path.rmdir()
  os.mkfifo(path)
  assert message() == f'{path}: expected a plain file'
  path.unlink()
  path.write_bytes(b'{"x": "\xff"}')
  assert message().startswith(f"{path}: damaged ('utf-8' codec can't decode byte 0xff in position 7")
  path.write_text('{"x": 10}')
  assert message() == f'{path}: damaged (Expected `int` <= 9 - at `$.x`): expected a point'
  monkeypatch.setattr(json_files, 'MAX_BYTES', 8)
  assert message().endswith(': expected a file of a run, which has less')
  path = tmp_path / 'a\0b'
  assert message().endswith(': cannot be read: embedded null byte')


def test_records_are_those_before_half_a_line(tmp_path):
  path = tmp_path / 'records'
  assert json_files.read_records(path, Point) == []
  path.write_text('{"x": 1}\n{"x": 2}\n{"x": 3')
  assert json_files.read_records(path, Point) == [{'x': 1}, {'x': 2}]
  path.write_text('{"x": 1}\n{"x": -2}\n')
  with pytest.raises(UserError) as error:
    json_files.read_records(path, Point)
  assert str(error.value) == (
    f'{path}, line 2: damaged (Expected `int` >= 0 - at `$.x`): expected a record, as on other lines'
  )


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_a_number_that_is_not_finite_is_an_error_before_the_file_is_touched(tmp_path, value):
  path = tmp_path / 'records'
  with pytest.raises(UserError, match=f"a record with {{'loss': {value}}}: expected finite numbers"):
    files.append_record(path, {'epoch': 1, 'loss': value})
  assert not path.exists()
