"""The command on the smallest network, and its plot."""

import json
import sys

import pytest

import benchmarks
from benchmarks import command, inference
from moonshine_jax import report

SMALL = ['--networks', 'WRN-10-1 S', '--batch=4', '--image_size=8', '--repeats=2']


def test_command(tmp_path, capsys):
  pytest.importorskip('matplotlib')
  path, plot = tmp_path / 'rows.json', tmp_path / 'plot.svg'
  inference.main([*SMALL, f'--json={path}', f'--plot={plot}'])
  (row,) = json.loads(path.read_text())['rows']
  assert (row['network'], row['parameters']) == ('WRN-10-1 S', 78330)
  assert row['latency'] > 0 and row['images_per_second'] > 0
  assert len(row['latencies']) == len(row['seconds_an_image']) == 2
  assert 'WRN-10-1 S' in capsys.readouterr().out
  assert '<svg' in plot.read_text()


def test_without_matplotlib(tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, 'matplotlib', None)
  for package, name in ((benchmarks, 'cost_plot'), (report, 'figures')):
    monkeypatch.delitem(sys.modules, f'{package.__name__}.{name}', raising=False)
    monkeypatch.delattr(package, name, raising=False)
  flags = command.make_parser('', repeats=5).parse_args([])
  flags.plot = str(tmp_path / 'plot.svg')
  inference.plot_costs([], flags)
  assert capsys.readouterr().out == 'Matplotlib is not installed: there is no plot.\n'
