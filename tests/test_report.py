import pytest

from moonshine_jax import report
from moonshine_jax.errors import UserError


def test_table_of_means_and_sample_deviations():
  teacher = report.Network('WRN-16-1 (teacher)', 'S', 175706, 1648256)
  student = report.Network('WRN-16-1', 'G(N/8)', 54042, 500000)
  table = report.table({
    teacher: {'none': [3.4]}, student: {'none': [5.0, 7.0], 'AT': [4.0, 4.0, 4.6]}})
  assert table == '\n'.join([
    '| Network            | Block  | Parameters | Multiply-adds | Error, none     | Error, KD | Error, AT       |',
    '| ------------------ | ------ | ---------- | ------------- | --------------- | --------- | --------------- |',
    '| WRN-16-1 (teacher) | S      | 175,706    | 1,648,256     | 3.40 (1)        | -         | -               |',
    '| WRN-16-1           | G(N/8) | 54,042     | 500,000       | 6.00 ± 1.41 (2) | -         | 4.20 ± 0.35 (3) |'])


def test_a_folder_without_finished_runs_is_named(tmp_path):
  with pytest.raises(UserError, match='no finished run in it'):
    report.collect(tmp_path)
