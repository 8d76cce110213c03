"""How far a sweep is: the work by hand, and the time to go on a clock that the test moves."""

import time

from moonshine_jax.configs import digits
from moonshine_jax.launch import jobs, progress


def test_progress_is_weighted_by_multiply_adds(monkeypatch, tmp_path):
  base = digits.get_config()
  base.epochs = 2
  teacher = jobs.create_job(base, tmp_path / 'teacher', {})
  student = jobs.create_job(
    base, tmp_path / 'student', {'model.block': 'G(N)', 'distill.teacher': str(tmp_path / 'teacher')}
  )
  assert progress.training_multiply_adds(student.config, teacher.config, together=4) == 2 * (
    3 * 4_565_632 + 26_657_408 / 4
  )
  now = [0.0]
  monkeypatch.setattr(time, 'monotonic', lambda: now[0])
  shown = progress.SweepProgress({**teacher.networks, **student.networks}, together=4)
  assert 'to go' not in shown.line()
  (tmp_path / 'teacher').mkdir()
  (tmp_path / 'teacher/metrics.jsonl').write_text('{"epoch": 1, "step": 10}\n')
  now[0] = 60.0
  share = (
    26_657_408 * 3 / (26_657_408 * 6 + progress.training_multiply_adds(student.config, teacher.config, together=4))
  )
  assert shown.line().startswith(f'0 of 2 networks, {100 * share:.1f}% of the multiply-adds, 0:01:00 gone, ')
  minutes, seconds = map(int, shown.line().split(', ')[-1].split()[0].split(':')[1:])
  assert abs(60 * minutes + seconds - 60 * (1 - share) / share) <= 1
