import csv
import io

import pytest

from moonshine_jax.report import table_formats, tables
from tests.helpers.digits_runs import TEACHER, make_student


def test_summary_has_means_and_sample_standard_deviations():
  runs = [
    TEACHER,
    make_student('a', [3.0, 4.0]),
    make_student('b', [3.0, 4.0], seed=1),
    make_student('c', [3.0, 4.6], seed=2),
    make_student('d', [9.0, 5.0], **{'distill.teacher': ''}),
    make_student('e', [9.0, 7.0], **{'distill.teacher': ''}),
  ]
  assert table_formats.summary_markdown(runs) == '\n'.join(
    [
      '| Network            | Block  | Parameters | Multiply-adds | Error, none     | Error, AT       |',
      '| ------------------ | ------ | ---------- | ------------- | --------------- | --------------- |',
      '| WRN-40-2 (teacher) | S      | 1,234,567  | 7,654,321     | 4.00 (1)        | -               |',
      '| WRN-40-2           | G(N/8) | 1,234,567  | 7,654,321     | 6.00 ± 1.41 (2) | 4.20 ± 0.35 (3) |',
    ]
  )


def test_csv_has_a_line_for_each_network_and_method():
  (table,) = tables.make_tables([TEACHER, make_student('a', [3.0, 4.0]), make_student('b', [3.0, 5.0])])
  rows = list(csv.DictReader(io.StringIO(table_formats.table_csv(table))))
  assert [(row['block'], row['regime']) for row in rows] == [
    ('S', 'none'),
    ('G(N/8)', 'none'),
    ('G(N/8)', 'KD'),
    ('G(N/8)', 'AT'),
  ]
  assert float(rows[-1]['error_mean']) == 4.5 and float(rows[-1]['error_std']) == pytest.approx(0.5**0.5)
  assert (rows[-1]['runs'], rows[-1]['parameters'], rows[-1]['best_epoch_error_mean']) == ('2', '1234567', '3.0')
  assert (rows[1]['error_mean'], rows[1]['runs']) == ('', '0')
