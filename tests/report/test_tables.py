import pytest

from moonshine_jax import paper
from moonshine_jax.report import table_formats, tables
from tests.helpers.digits_runs import TEACHER, make_student
from tests.helpers.made_runs import make_run


def test_the_last_epoch_is_the_result_and_the_best_is_beside_it():
  (table,) = tables.make_tables([TEACHER, make_student('a', [3.0, 4.0]), make_student('b', [5.0, 6.0])])
  cell = table.rows[1].cells['AT']
  assert (cell.mean, cell.spread, cell.best) == (5.0, pytest.approx(2**0.5), 4.0)
  assert cell.paper is None and cell.difference is None
  assert 'is not the result' in table_formats.table_markdown(table)


def test_missing_and_unfinished_runs_are_named():
  (table,) = tables.make_tables([TEACHER, make_student('a', [3.0, 4.0]), make_student('b', [5.0])])
  assert [table.rows[1].cells[method].text for method in table.methods] == [
    'missing',
    'missing',
    '4.00 (1), unfinished (1)',
  ]
  assert 'Unfinished: b (epoch 1 of 2).' in table.notes
  assert tables.make_tables([TEACHER, make_student('b', [5.0])])[0].rows[1].cells['AT'].text == 'unfinished (1)'


@pytest.mark.parametrize(('data', 'printed'), [('cifar10', paper.TABLE_3), ('cifar100', paper.TABLE_4)])
def test_the_paper_is_beside_our_errors(data, printed):
  fields = {'epochs': 2, 'data.name': data, 'model.block': 'BG(2,M/16)'}
  runs = [make_run('a', [9.0, 7.25], **fields), make_run('b', [9.0, 7.75], **fields, seed=1)]
  (table,) = tables.make_tables(runs)
  assert table.title == f'Table {3 if data == "cifar10" else 4}: test error on CIFAR-{data.removeprefix("cifar")}'
  assert [(row.network, row.block) for row in table.rows] == [(f'WRN-{row[0]}-{row[1]}', row.block) for row in printed]
  for row, expected in zip(table.rows, printed, strict=True):
    assert row.cells['none'].paper == expected.error
    assert row.teacher or (row.cells['KD'].paper, row.cells['AT'].paper) == (expected.kd_error, expected.at_error)
    assert row.parameters == {'BG(2,M/16)': 1234567}.get(row.block, expected.parameters)
  (row,) = (row for row in table.rows if row.block == 'BG(2,M/16)')
  assert row.cells['none'].difference == pytest.approx(7.5 - {'cifar10': 6.26, 'cifar100': 29.69}[data])
  assert row.cells['AT'].text == 'missing'
  assert any("Not the paper's recipe: epochs 2 (paper: 200)" in note for note in table.notes)
  assert any('234,704' in note and '243,706' in note for note in table.notes) == (data == 'cifar10')
  assert len(table_formats.summary_markdown(runs).splitlines()) == 3  # the short table has the networks that have runs


def test_the_archive_of_its_authors_is_the_papers_data():
  (table,) = tables.make_tables([make_run('run', [4.0] * 200, **{'data.name': 'cifar:data/cifar-10-python.tar.gz'})])
  assert table.printed and table.title == 'Table 3: test error on CIFAR-10'
  assert any('234,704' in note for note in table.notes) and '5.06' in table_formats.table_markdown(table)


def test_the_teacher_alone_is_the_first_row_of_the_paper():
  (table,) = tables.make_tables([make_run('run', [4.0] * 200)])
  assert len(table.rows) == 26 and table.rows[0].teacher and table.rows[0].cells['none'].mean == 4.0
  assert not any('recipe' in note for note in table.notes)


def test_held_out_errors_are_no_test_errors():
  held_out = {'epochs': 2, 'data.held_out': 0.1}
  runs = [make_run('a', [9.0, 7.0], **held_out), make_run('b', [9.0, 6.0], **held_out, **{'model.block': 'B(2)'})]
  (table,) = tables.make_tables(runs)
  assert table.title == 'Held-out error on CIFAR-10' and not table.printed and len(table.rows) == 2
  assert all(cell.paper is None for row in table.rows for cell in row.cells.values())
  assert any('held out: all.' in note for note in table.notes)

  (table,) = tables.make_tables([*runs, make_run('c', [9.0, 5.0], epochs=2)])
  assert table.title == 'Table 3: test error on CIFAR-10'
  assert any(
    'No test errors, but of a share of the training split that is held out: a, b.' in note for note in table.notes
  )
  assert any('data.held_out 0.1 (paper: 0.0)' in note for note in table.notes)


def test_several_data_sets_have_a_table_each():
  runs = [TEACHER, make_run('other', [1.0, 2.0], **{'epochs': 2, 'data.name': 'mnist'})]
  assert [table.title for table in tables.make_tables(runs)] == ['Test error on digits', 'Test error on mnist']
  assert 'Test error on mnist\n\n| Network' in table_formats.summary_markdown(runs)
