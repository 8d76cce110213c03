import itertools
import re
import warnings

import pytest

from moonshine_jax import paper
from moonshine_jax.report import figures, tables
from tests.helpers.made_runs import make_run, make_table


def test_pareto_front():
  assert figures.pareto_front([(3, 2), (1, 5), (2, 5), (2, 4), (4, 3), (5, 2), (6, 1), (1, 6)]) == [
    (1, 5),
    (2, 4),
    (3, 2),
    (6, 1),
  ]


@pytest.mark.parametrize(
  ('block', 'style'),
  [
    ('S', 'S, reduced architecture'),
    ('S-2x2', 'S-2x2'),
    ('G(N/8)', 'G'),
    ('B(2)', 'B'),
    ('BG(2,M/8)', 'BG'),
    ('S,G(2),BG(2,M)', 'mixed'),
    ('G(2),G(2),G(2)', 'G'),
  ],
)
def test_style_of_a_network(block, style):
  row = tables.TableRow('WRN-16-1', block, False, '', 1, 1, {})
  assert figures.style_of(row) == style and style in figures.STYLES


def texts(svg):
  return re.findall(r'<text[^>]*>([^<]*)</text>', svg)


@pytest.fixture(scope='module')
def table_3():
  return tables.make_tables(make_table(paper.TABLE_3))[0]


def test_figure_3_names_every_network_and_uses_the_colours_of_the_paper(table_3):
  points = figures.cost_points(table_3, 'AT', lambda row: row.parameters / 1e6)
  svg = figures.cost_figure(points, 'title', 'million parameters')
  shown = texts(svg)
  assert set(shown) >= {row.block for row in paper.TABLE_3[4:]} | {'16-2', '40-1', '16-1', 'teacher 40-2'}
  assert set(shown) >= {'title', 'million parameters', 'test error (%)', 'Pareto front'}
  colors = {'16-2': 'tab:red', 'G(2)': 'tab:green', 'B(2)': 'tab:blue', 'BG(2,2)': 'tab:cyan'}
  assert {point.label: figures.STYLES[point.style][0] for point in points if point.label in colors} == colors
  errors = {point.label: point.error for point in points}
  assert errors['G(N/8)'] == 5.06 and errors['teacher 40-2'] == 4.79
  assert svg == figures.cost_figure(points, 'title', 'million parameters')  # the same bytes


def test_labels_of_crowded_points_do_not_overlap(table_3):
  figure, ax = figures.plt.subplots(figsize=(5.2, 5.6))
  points = figures.cost_points(table_3, 'AT', lambda row: row.parameters)
  ax.set_xscale('log')
  ax.scatter([point.cost for point in points], [point.error for point in points])
  ax.margins(0.12)
  figure.canvas.draw()
  figures.place_labels(ax, [(point.label, point.cost, point.error, 'black') for point in points])
  boxes = [figures.Text.get_window_extent(text, figure.canvas.get_renderer()) for text in ax.texts]
  figures.plt.close(figure)
  assert len(boxes) == 26
  assert not any(first.overlaps(second) for first, second in itertools.combinations(boxes, 2))


def test_figures_of_one_network():
  (table,) = tables.make_tables([make_run('run', [4.0, 0.0], **{'epochs': 2, 'data.name': 'digits'})])
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    assert '40-2' in texts(figures.cost_figure(figures.cost_points(table, 'none', lambda row: 2.0), 'title', 'cost'))
    assert 'epoch' in texts(figures.learning_curves(table))


def test_learning_curves_have_a_line_for_every_run():
  kd = {'model.block': 'B(2)', 'distill.teacher': 'a', 'distill.beta': 0.0}
  runs = [
    make_run('a', [9.0, 7.0], epochs=2),
    make_run('b', [8.0], epochs=2, **{'model.block': 'G(2)'}),  # unfinished
    make_run('c', [9.0, 6.0], epochs=2, **kd),
  ]
  svg = figures.learning_curves(tables.make_tables(runs)[0])
  assert {'no distillation', 'KD', 'teacher', 'G', 'B', 'epoch'} <= set(texts(svg)) and 'AT' not in texts(svg)
  assert svg.count('stroke-opacity: 0.8') == 3 + 3  # the runs, and the legend's
