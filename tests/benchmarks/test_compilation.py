"""The table of compile times, of programs that take none."""

import json

import jax
import numpy as np
import pytest

from benchmarks import compilation


@pytest.fixture(autouse=True)
def cache():
  """As it was: the command does without."""
  enabled = jax.config.jax_enable_compilation_cache
  yield
  jax.config.update('jax_enable_compilation_cache', enabled)


def describe_product(architecture, flags, replicas):
  """In place of the steps of a network: a matrix product."""
  x = replicas.replicate(np.zeros((8, 8), np.float32))
  return lambda: replicas.compile(lambda x: x @ x).lower(x), None


def test_a_row_for_each_network(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(compilation, 'describe_steps', describe_product)
  path = tmp_path / 'rows.json'
  compilation.main(['--networks', 'S', 'WRN-16-1 G(N/8)', '--repeats=3', f'--json={path}'])
  lines = capsys.readouterr().out.splitlines()
  assert [line.split('  ')[0] for line in lines] == ['network', 'WRN-40-2 S', 'WRN-16-1 G(N/8)']
  written = json.loads(path.read_text())
  assert written['devices'] == jax.local_device_count()
  for row in written['rows']:
    turns = row['turns']
    assert len(turns) == 3 and min(turn[name] for turn in turns for name in ('tracing', 'xla', 'cpu')) > 0
    assert row['xla'] == sorted(turn['xla'] for turn in turns)[1]


def test_a_batch_that_the_devices_do_not_divide_is_refused(capsys):
  if jax.local_device_count() == 1:
    pytest.skip('needs several devices')
  with pytest.raises(SystemExit) as end:
    compilation.main(['--batch=1'])
  assert end.value.code == 2
  assert capsys.readouterr().err.endswith(f'--batch=1: expected a multiple of the {jax.local_device_count()} devices\n')
