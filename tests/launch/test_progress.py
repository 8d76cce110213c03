"""How far a sweep is: the work by hand, and the time to go on a clock that the test moves."""

import sys
import time
from pathlib import Path

from moonshine_jax.cli import app
from moonshine_jax.configs import digits
from moonshine_jax.data.sources import DigitsSource
from moonshine_jax.launch import jobs, processes, progress, sweep
from tests.helpers import made_runs


def test_progress_is_weighted_by_multiply_adds(monkeypatch, tmp_path):
  base = digits.get_config()
  base.epochs = 2
  teacher = jobs.create_job(base, tmp_path / 'teacher', {})
  student = jobs.create_job(
    base, tmp_path / 'student', {'model.block': 'G(N)', 'distill.teacher': str(tmp_path / 'teacher')}
  )
  assert progress.training_multiply_adds(student.config, 26_657_408, together=4) == 2 * (3 * 4_565_632 + 26_657_408 / 4)
  now = [0.0]
  monkeypatch.setattr(time, 'monotonic', lambda: now[0])
  shown = progress.SweepProgress({**teacher.networks, **student.networks}, 26_657_408, together=4)
  assert 'to go' not in shown.line()
  (tmp_path / 'teacher').mkdir()
  (tmp_path / 'teacher/metrics.jsonl').write_text('{"epoch": 1, "step": 10}\n')
  now[0] = 60.0
  share = 26_657_408 * 3 / (26_657_408 * 6 + progress.training_multiply_adds(student.config, 26_657_408, together=4))
  assert shown.line().startswith(f'0 of 2 networks, {100 * share:.1f}% of the multiply-adds, 0:01:00 gone, ')
  minutes, seconds = map(int, shown.line().split(', ')[-1].split()[0].split(':')[1:])
  assert abs(60 * minutes + seconds - 60 * (1 - share) / share) <= 1


def test_a_teacher_that_is_trained_already_counts_for_its_students_alone(tmp_path):
  base = digits.get_config()
  base.distill.teacher = 'zoo:wrn-40-2-cifar10'
  student = jobs.create_job(base, tmp_path / 'student', {'model.block': 'G(N)', 'epochs': 1})
  (tmp_path / 'student').mkdir()
  (tmp_path / 'student/metrics.jsonl').write_text('{"epoch": 1, "step": 10}\n')
  shown = progress.SweepProgress(student.networks, sweep.recorded_multiply_adds(base.distill.teacher), together=1)
  assert shown._done()[1] == 3 * 4_565_632 + 327_599_360


def test_the_data_of_a_users_networks_is_opened_once(monkeypatch):
  opened = []
  progress._image_shape.cache_clear()
  monkeypatch.setattr('moonshine_jax.data.sources.open_source', lambda data: opened.append(data) or DigitsSource())
  base = digits.get_config()
  base.model.network = 'tests.helpers.user:with_norm'
  for seed in range(3):
    student = jobs.create_job(base, Path('student'), {'seed': seed})
    progress.training_multiply_adds(student.config, 0, together=1)
  assert len(opened) == 1


def test_the_code_that_a_teacher_names_does_not_run(tmp_path, monkeypatch):
  (tmp_path / 'evil.py').write_text("raise SystemExit('run')\n")
  made_runs.write(
    tmp_path / 'teacher', [], **{'model.network': f'{tmp_path}/evil.py:f', 'data.name': f'{tmp_path}/evil.py:g'}
  )
  monkeypatch.setattr(sys, 'argv', sys.argv)  # which a command changes
  monkeypatch.setattr(processes, 'run_all', lambda *_, **__: None)
  monkeypatch.setattr(sweep, 'make_table', lambda *_: 'table')
  app.run('sweep', ['--config=digits', f'--out={tmp_path}/out', f'--config.distill.teacher={tmp_path}/teacher'])
