"""Networks by name, and the JSON that every measurement writes."""

import json

import pytest

from benchmarks import command
from moonshine_jax import cost


@pytest.mark.parametrize('name, expected', [
  ('S', (40, 2, 'S')), ('BG(2,M/8)', (40, 2, 'BG(2,M/8)')), ('WRN-16-1 S-2x2', (16, 1, 'S-2x2'))])
def test_parses_what_it_prints(name, expected):
  architecture = command.Architecture.parse(name)
  assert architecture == expected
  assert command.Architecture.parse(str(architecture)) == architecture


@pytest.mark.parametrize('name', ['', 'T', 'WRN-41-2 S', 'WRN-16 S', 'WRN-16-0 S', 'G(3)'])
def test_refuses_what_is_no_network(name):
  with pytest.raises(ValueError):
    command.Architecture.parse(name)


def test_all_of_table_3():
  assert len(set(command.TABLE_3)) == 26
  for architecture in command.TABLE_3:
    assert command.Architecture.parse(str(architecture)) == architecture
  teacher = command.make_network(command.make_config(command.TEACHER, 128, 'float32')).model
  assert cost.count(teacher, (32, 32, 3)) == cost.Cost(2248954, 327599360)


def test_json_says_where_it_was_measured(tmp_path):
  path = tmp_path / 'rows.json'
  flags = command.make_parser('', repeats=5).parse_args(['--networks', 'G(N/8)', f'--json={path}'])
  command.write_json(flags.json, flags, [{'network': 'WRN-40-2 G(N/8)'}], device='this')
  written = json.loads(path.read_text())
  assert {'backend', 'device', 'processor', 'jax', 'torch', 'commit'} <= written['environment'].keys()
  assert written['flags']['networks'] == ['WRN-40-2 G(N/8)'] and written['flags']['repeats'] == 5
  assert written['rows'] == [{'network': 'WRN-40-2 G(N/8)'}] and written['device'] == 'this'
