"""The command on the smallest network, its plot, and where the plot's labels lie."""

import itertools
import json
import sys

import pytest

import benchmarks
from benchmarks import command, inference

SMALL = ['--networks', 'WRN-10-1 S', '--batch=4', '--image_size=8', '--repeats=2']


def test_command(tmp_path, capsys):
  pytest.importorskip('matplotlib')
  path, plot = tmp_path / 'rows.json', tmp_path / 'plot.svg'
  inference.main([*SMALL, f'--json={path}', f'--plot={plot}'])
  row, = json.loads(path.read_text())['rows']
  assert (row['network'], row['parameters']) == ('WRN-10-1 S', 78330)
  assert row['latency'] > 0 and row['images_per_second'] > 0
  assert len(row['latencies']) == len(row['seconds_an_image']) == 2
  assert 'WRN-10-1 S' in capsys.readouterr().out
  assert '<svg' in plot.read_text()


def test_without_matplotlib(tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, 'matplotlib', None)
  monkeypatch.delitem(sys.modules, 'benchmarks.cost_plot', raising=False)
  monkeypatch.delattr(benchmarks, 'cost_plot', raising=False)
  flags = command.make_parser('', repeats=5).parse_args([])
  flags.plot = str(tmp_path / 'plot.svg')
  inference.plot([], flags)
  assert capsys.readouterr().out == 'Matplotlib is not installed: there is no plot.\n'


def test_labels_of_crowded_points_do_not_overlap():
  pytest.importorskip('matplotlib')
  from benchmarks import cost_plot

  points = [(str(architecture), 10 * 1.1 ** i, 0.1 * 1.02 ** i)
            for i, architecture in enumerate(reversed(command.TABLE_3))]
  figure, ax = cost_plot.plt.subplots(figsize=(7.5, 7))
  cost_plot.draw_panel(ax, 'title', points)
  figure.canvas.draw()
  cost_plot.place_labels(ax, points)
  boxes = [cost_plot.Text.get_window_extent(text, figure.canvas.get_renderer()) for text in ax.texts]
  assert len(boxes) == 26
  assert not any(first.overlaps(second) for first, second in itertools.combinations(boxes, 2))
  cost_plot.plt.close(figure)
