"""The teacher's error on the data of its students: told before training, doubted where it is that of chance."""

import types

import pytest

from moonshine_jax import errors
from moonshine_jax.configs import digits
from moonshine_jax.data.splits import Facts
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.training import teacher as teacher_lib


@pytest.mark.parametrize(
  ('error', 'num_classes', 'examples', 'warns'),
  [
    (9.0, 10, 500, False),
    (80.4, 10, 500, False),
    (87.2, 10, 500, False),  # chance is 90 +- 1.34
    (87.4, 10, 500, True),
    (100.0, 10, 500, True),
    (98.9, 100, 10000, True),
    (98.7, 100, 10000, False),
    (30.0, 3, 13, False),
    (60.0, 3, 13, True),
    (0.0, 1, 13, False),
  ],
)
def test_an_error_of_chance_is_one_line(error, num_classes, examples, warns, capsys):
  errors.warn_once.cache_clear()
  for _ in range(2):
    teacher_lib.doubt_error(error, num_classes, examples)
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == warns
  if warns:
    chance = 100 - 100 / num_classes
    assert lines[0].startswith(
      f'warning: a test error of {error:.2f}% on {examples} images of {num_classes} classes is no better than chance '
      f'({chance:.2f}%): expected a trained network, whose classes are in the order of the data and whose images were'
    )


@pytest.mark.parametrize(
  ('recorded', 'change', 'told'),
  [(9.0, {}, 9.0), (None, {}, 88.0), (9.0, {'name': 'other.py:data'}, 88.0), (9.0, {'test_split': 'train'}, 88.0)],
)
def test_the_error_is_that_on_the_data_of_the_students(recorded, change, told, monkeypatch, capsys):
  errors.warn_once.cache_clear()
  monkeypatch.setattr(teacher_lib, 'evaluate_split', lambda *args: {'test_error': 88.0})
  trained_on, config = digits.get_config(), digits.get_config()
  config.data.update(change)
  config.distill.teacher = 'runs/teacher'
  facts = Facts((8, 8, 1), 10, (78.0,), (95.0,))
  teacher = types.SimpleNamespace(config=trained_on, test_error=recorded, network=None, variables={}, facts=facts)
  teacher_lib.tell_error(teacher, config, range(500), Replicas())
  out, err = capsys.readouterr()
  name = 'data' if 'name' in change else 'digits'
  assert out == f'teacher runs/teacher: test error {told:.2f}% on {name}\n'
  assert ('no better than chance' in err) == (told == 88.0)
