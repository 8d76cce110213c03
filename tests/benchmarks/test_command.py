"""The networks of Table 3, and the JSON that every measurement writes."""

import json

import pytest

from benchmarks import command
from moonshine_jax.cost import counting
from moonshine_jax.models.wide_resnet import Architecture


def test_all_of_table_3():
  assert len(set(command.TABLE_3)) == 26
  for architecture in command.TABLE_3:
    assert Architecture.parse(str(architecture)) == architecture
  teacher = command.make_network(command.make_config(command.TEACHER, 128, 'float32')).model
  assert counting.count_cost(teacher, (32, 32, 3)) == counting.Cost(2248954, 327599360)


def test_json_says_where_it_was_measured(tmp_path):
  path = tmp_path / 'rows.json'
  flags = command.make_parser('', repeats=5).parse_args(['--networks', 'G(N/8)', f'--json={path}'])
  command.write_json(flags.json, flags, [{'network': 'WRN-40-2 G(N/8)'}], device='this')
  written = json.loads(path.read_text())
  assert {'backend', 'device', 'processor', 'instruction_sets', 'jax', 'torch', 'commit'} <= written[
    'environment'
  ].keys()
  assert written['flags']['networks'] == ['WRN-40-2 G(N/8)'] and written['flags']['repeats'] == 5
  assert written['rows'] == [{'network': 'WRN-40-2 G(N/8)'}] and written['device'] == 'this'


def test_errors_are_told_in_a_line():
  assert command.first_line(ValueError('\nno such thing\nand more')) == 'no such thing'
  assert command.first_line(MemoryError()) == 'MemoryError'


def test_a_file_that_cannot_be_is_refused_before_anything_is_measured(tmp_path, capsys):
  for path in tmp_path, tmp_path / 'missing' / 'rows.json':
    with pytest.raises(SystemExit):
      command.make_parser('', repeats=5).parse_args([f'--json={path}'])
    assert f'--json: {path}: expected a file in a folder that is there' in capsys.readouterr().err
