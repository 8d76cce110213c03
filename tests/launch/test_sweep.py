from pathlib import Path

from configs import digits
from launch import sweep
from moonshine_jax import config as config_lib


def test_every_student_by_every_regime_with_every_seed():
  runs = dict(sweep.runs(digits.get_config(), ['G(N/8)', 'B(2)'], ['none', 'KD', 'AT'], 2, Path('out')))
  assert len(runs) == 1 + 2 * 3 * 2
  assert list(runs)[0] == 'teacher' and runs['teacher'].to_dict() == digits.get_config().to_dict()
  for config in runs.values():
    config_lib.check(config)
  student = runs['G-N-8-AT-seed-1']
  assert (student.model.block, student.seed, config_lib.regime(student)) == ('G(N/8)', 1, 'AT')
  assert (student.distill.teacher, student.distill.alpha, student.distill.beta) == ('out/teacher', 0.0, 62.5)
  assert config_lib.regime(runs['B-2-KD-seed-0']) == 'KD' and config_lib.regime(runs['B-2-none-seed-0']) == 'none'
