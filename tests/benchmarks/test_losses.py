"""Which students take turns, and the arithmetic; never how fast they are. `test_step_loop` trains one."""

import json

import jax
import pytest

from benchmarks import losses as benchmark
from moonshine_jax import losses


def test_every_form_beside_kd(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(jax, 'local_devices', lambda: jax.devices()[:1])
  trained = []

  def make_training(configs, teacher, *_):
    (student,) = configs
    trained.append((student.model.block, student.distill, teacher and teacher.model.block))
    return lambda: None

  monkeypatch.setattr(benchmark, 'make_training', make_training)
  path = tmp_path / 'rows.json'
  networks = ['--networks', 'WRN-10-1 S', 'WRN-10-1 G(N/8)']
  benchmark.main([*networks, '--batch=4', '--images=8', '--image_size=4', '--repeats=1', f'--json={path}'])
  rows = {row['form']: row for row in json.loads(path.read_text())['rows']}
  assert list(rows) == [
    'no distillation',
    *(f'KD {form}' for form in losses.KD_FORMS),
    'KD hinton, standardised',
    *(f'AT {form}' for form in losses.AT_FORMS),
  ]
  assert rows['KD hinton']['ratio'] == 1 and 'AT similarity' in capsys.readouterr().out
  assert trained[0][2] is None and {(block, teacher) for block, _, teacher in trained[1:]} == {('G(N/8)', 'S')}
  assert [(distill.alpha > 0, distill.beta > 0) for _, distill, _ in trained[1:]] == [(True, False)] * 7 + [
    (False, True)
  ] * 4


def test_ratios_are_those_of_the_medians():
  rows = benchmark.compare_forms({'KD hinton': [1.0, 2.0, 9.0], 'KD dkd': [4.0]}, images=100)
  assert [row['images_per_second'] for row in rows] == [50.0, 25.0] and rows[1]['ratio'] == 0.5
  assert (rows[0]['lowest'], rows[0]['highest']) == (pytest.approx(100 / 9), 100.0)
