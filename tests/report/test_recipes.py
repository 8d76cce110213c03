from moonshine_jax.report import tables
from tests.helpers.digits_runs import TEACHER, make_student
from tests.helpers.made_runs import make_run


def test_different_losses_are_separate_columns():
  kd = {'distill.alpha': 0.9, 'distill.beta': 0.0}
  runs = [
    TEACHER,
    make_student('a', [3.0, 4.0], **kd, **{'distill.kd_form': 'hinton'}),
    make_student('b', [3.0, 8.0], **kd),
    make_student('c', [3.0, 6.0], **kd, seed=1),
    make_student('d', [3.0, 5.0]),
    make_student('e', [3.0, 9.0], **kd, **{'model.block': 'B(2)'}),
  ]
  (table,) = tables.make_tables(runs)
  assert table.methods == ('none', 'KD, kd_form=hinton', 'KD, kd_form=released', 'AT')
  assert [
    (row.name, row.block, {method: cell.mean for method, cell in row.cells.items() if cell.runs})
    for row in table.rows[1:]
  ] == [
    ('WRN-40-2', 'G(N/8)', {'KD, kd_form=hinton': 4.0, 'KD, kd_form=released': 7.0, 'AT': 5.0}),
    ('WRN-40-2', 'B(2)', {'KD, kd_form=released': 9.0}),
  ]


def test_recipes_that_differ_otherwise_are_separate_rows():
  none = {'distill.teacher': ''}
  runs = [
    TEACHER,
    make_student('a', [3.0, 4.0]),
    make_student('b', [3.0, 8.0], batch_size=64),
    make_student('c', [3.0, 5.0], **none),
  ]
  (table,) = tables.make_tables(runs)
  assert {
    row.name: {method: cell.mean for method, cell in row.cells.items() if cell.runs} for row in table.rows[1:]
  } == {
    'WRN-40-2, batch_size=128': {'AT': 4.0, 'none': 5.0},
    'WRN-40-2, batch_size=64': {'AT': 8.0},
  }


def test_epochs_and_learning_rates_of_blocks_keep_their_section():
  starts = {'distill.start': 'blockwise'}
  runs = [
    TEACHER,
    make_student('a', [3.0, 4.0], **starts),
    make_student('b', [3.0, 8.0], **starts, **{'blockwise.epochs': 7, 'optimizer.learning_rate': 0.02}),
  ]
  (table,) = tables.make_tables(runs)
  names = [row.name for row in table.rows[1:]]
  assert 'blockwise.epochs=7' in names[1] and ' learning_rate=0.02' in names[1]


def test_teachers_of_different_recipes_share_no_cell():
  other = make_run('other', [9.0, 8.0], batch_size=64, epochs=2)
  (table,) = tables.make_tables([make_run('teacher', [5.0, 4.0], epochs=2), other])
  assert [(row.name, row.cells['none'].mean) for row in table.rows[:2]] == [
    ('WRN-40-2 (teacher), batch_size=128', 4.0),
    ('WRN-40-2 (teacher), batch_size=64', 8.0),
  ]


def test_networks_of_a_search_share_a_column_and_two_starts_of_one_network_do_not():
  kd = {'distill.alpha': 0.9, 'distill.beta': 0.0}

  def student(name, block, start, **fields):
    return make_student(name, [3.0, 4.0], **kd, **{'model.block': block, 'distill.start': start}, **fields)

  runs = [
    TEACHER,
    student('a', 'S,S,B(2)', 'out/networks/params-5'),
    student('b', 'S,S,B(2)', 'out/networks/params-5', seed=1),
    student('c', 'S,S,G(4)', 'out/networks/macs-7'),
    student('d', 'S,S,G(4)', 'blockwise'),
    student('e', 'S,S,G(4)', ''),
  ]
  (table,) = tables.make_tables(runs)
  assert table.methods == ('none', 'KD, start=network', 'KD, start=blockwise', 'KD', 'AT')
  assert table.rows[1].cells['KD, start=network'].text == '4.00 ± 0.00 (2)'
  (table,) = tables.make_tables([*runs, student('f', 'S,S,G(4)', 'other/networks/macs-7')])
  starts = [method.partition('start=')[2] for method in table.methods_with_runs if 'start=' in method]
  assert sorted(starts) == ['blockwise', 'network', 'other/networks/macs-7', 'out/networks/macs-7']


def test_the_teacher_of_blocks_is_told_where_there_are_several():
  blocks = {'distill.alpha': 0.0, 'distill.beta': 0.0, 'distill.start': 'blockwise'}
  one = [TEACHER, make_student('a', [3.0, 4.0], **blocks)]
  assert tables.make_tables(one)[0].methods[:2] == ('none', 'none, start=blockwise')
  other = make_student('b', [3.0, 9.0], **blocks, **{'distill.teacher': 'other'})
  methods = tables.make_tables([*one, other])[0].methods
  assert {f'none, start=blockwise, teacher={name}' for name in (TEACHER.name, 'other')} < set(methods)
