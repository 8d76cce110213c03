"""The command on a network that compiles at once; never how fast it is."""

import json

import jax
import pytest

from benchmarks import losses as benchmark
from benchmarks import step_loop
from moonshine_jax import losses
from moonshine_jax.models.network import Network
from tests.benchmarks.test_step_loop import Small


def test_every_form_beside_kd(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(jax, 'local_devices', lambda: jax.devices()[:1])
  monkeypatch.setattr(step_loop, 'make_network', lambda config, axis_name=None: Network(Small(), (0,) * 3, (1,) * 3))
  path = tmp_path / 'rows.json'
  networks = ['--networks', 'WRN-10-1 S', 'WRN-10-1 G(N/8)']
  benchmark.main([*networks, '--batch=4', '--images=8', '--image_size=4', '--repeats=1', f'--json={path}'])
  rows = {row['form']: row for row in json.loads(path.read_text())['rows']}
  assert rows.keys() == {
    'no distillation',
    'KD hinton, standardised',
    *(f'KD {form}' for form in losses.KD_FORMS),
    *(f'AT {form}' for form in losses.AT_FORMS),
  }
  assert rows['KD hinton']['ratio'] == 1 and 'AT similarity' in capsys.readouterr().out


def test_ratios_are_those_of_the_medians():
  rows = benchmark.compare_forms({'KD hinton': [1.0, 2.0, 9.0], 'KD dkd': [4.0]}, images=100)
  assert [row['images_per_second'] for row in rows] == [50.0, 25.0] and rows[1]['ratio'] == 0.5
  assert (rows[0]['lowest'], rows[0]['highest']) == (pytest.approx(100 / 9), 100.0)
