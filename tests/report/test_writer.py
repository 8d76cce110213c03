import csv
import json
import sys
from pathlib import Path

import pytest

from moonshine_jax import paper, report
from moonshine_jax.errors import UserError
from moonshine_jax.report import tables, writer
from tests.helpers.made_runs import make_run


def test_files_of_a_report(report_folder):
  assert {path.name for path in report_folder.iterdir()} == {
    'latency.json',
    'index.html',
    'a-b-c.md',
    'a-b-c.csv',
    'a-b-c-parameters.svg',
    'a-b-c-multiply-adds.svg',
    'a-b-c-latency.svg',
    'a-b-c-learning-curves.svg',
    'cifar10.md',
    'cifar10.csv',
    'cifar10-parameters.svg',
    'cifar10-multiply-adds.svg',
    'cifar10-latency.svg',
    'cifar10-learning-curves.svg',
  }
  for name in ('parameters', 'multiply-adds'):
    svg = (report_folder / f'cifar10-{name}.svg').read_text()
    assert all(f'>{row.block}<' in svg for row in paper.TABLE_3[4:])
  assert '>G(N/8)<' in (report_folder / 'cifar10-latency.svg').read_text()
  assert '>G(2)<' not in (report_folder / 'cifar10-latency.svg').read_text()
  with open(report_folder / 'cifar10.csv', newline='') as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 1 + 25 * 3
  assert {float(row['difference']) for row in rows if row['runs'] == '1'} == {0.0}


def test_without_matplotlib_there_are_tables_and_no_figures(tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, 'matplotlib', None)
  monkeypatch.delitem(sys.modules, 'moonshine_jax.report.figures', raising=False)
  monkeypatch.delattr(report, 'figures', raising=False)
  writer.write_report('runs', [make_run('run', [3.0], epochs=1)], tmp_path, None)
  assert {path.name for path in tmp_path.iterdir()} == {'index.html', 'cifar10.md', 'cifar10.csv'}
  assert capsys.readouterr().err == (
    "warning: Matplotlib is not installed, so there are no figures: pip install 'moonshine-jax[report]'\n"
  )
  assert '<svg' not in (tmp_path / 'index.html').read_text()


def test_a_data_set_without_a_finished_run_has_curves_alone(tmp_path):
  runs = [make_run('run', [3.0], epochs=1), make_run('begun', [], **{'data.name': 'mnist'})]
  writer.write_report('runs', runs, tmp_path, None)
  assert {path.name for path in tmp_path.glob('mnist*')} == {'mnist.md', 'mnist.csv', 'mnist-learning-curves.svg'}
  assert 'Test error on mnist' in (tmp_path / 'index.html').read_text()


def test_a_teacher_that_has_no_run_has_no_point(tmp_path):
  student = {'model.block': 'G(N/8)', 'epochs': 1}
  runs = [
    make_run('a', [6.0], **student, **{'distill.start': 'blockwise'}),
    make_run('b', [7.0], **student, **{'distill.start': 'there'}),
  ]
  (table,) = tables.make_tables(runs)
  assert table.rows[0].teacher and not table.rows[0].cells
  assert {name for name, _ in writer.draw_figures(table, None)} == {'parameters', 'multiply-adds', 'learning-curves'}


def test_latencies_for_another_image_size_are_left_out(capsys):
  latencies = writer.Latencies('a phone', 8, {'WRN-40-2 S': 1.0})
  drawn = writer.draw_figures(tables.make_tables([make_run('run', [3.0], epochs=1)])[0], latencies)
  assert [name for name, _ in drawn] == ['parameters', 'multiply-adds', 'learning-curves']
  assert capsys.readouterr().err == 'warning: --latency: of images with a side of 8: expected 32, that of cifar10\n'


def test_committed_latencies_are_read():
  path = Path(__file__).parents[2] / 'results/cpu/inference.json'
  rows = {row['network']: row['latency'] for row in json.loads(path.read_text())['rows']}
  latencies = writer.read_latencies(path)
  assert (latencies.device, latencies.image_size) == ('AMD EPYC', 32)
  assert latencies.milliseconds == {name: 1e3 * seconds for name, seconds in rows.items()} and len(rows) > 20


@pytest.mark.parametrize(
  'text',
  [
    '{',
    '{"rows": []}',
    '{"environment": {"device": "x"}, "rows": [{"network": "WRN-40-2 S", "latency": 1}]}',
    '{"environment": {"device": "x"}, "image_shape": [8], "rows": [{"network": "WRN-40-2 S", "latency": -1}]}',
    '{"environment": {"device": "x"}, "image_shape": [], "rows": [{"network": "WRN-40-2 S", "latency": 1}]}',
    '{"environment": {"device": "x"}, "image_shape": [8], "rows": [{"network": "X", "latency": 1}]}',
    '{"environment": {"device": "x"}, "image_shape": [8], "rows": [{"network": "WRN-40-2 S", "latency": "fast"}]}',
  ],
)
def test_a_file_without_latencies_is_refused(text, tmp_path):
  (tmp_path / 'latency.json').write_text(text)
  with pytest.raises(UserError, match='latency.json: .*expected JSON with rows of network and latency'):
    writer.read_latencies(tmp_path / 'latency.json')
