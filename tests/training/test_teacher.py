"""The teacher's error on the data of its students: told before training, doubted where it is that of chance."""

import dataclasses
import types

import pytest

from moonshine_jax import errors
from moonshine_jax.configs import digits
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError
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


FACTS = Facts((8, 8, 1), 3, (78.0,), (95.0,), ('ant', 'bee', 'cow'), 'train 1', 'test 1')


@pytest.mark.parametrize(
  ('recorded', 'change', 'test', 'told'),
  [
    (9.0, {}, 'test 1', 9.0),
    (None, {}, 'test 1', 88.0),
    (9.0, {}, 'test 2', 88.0),
    (9.0, {'name': 'other.py:data'}, 'test 1', 88.0),
    (9.0, {'test_split': 'train'}, 'test 1', 88.0),
    (9.0, {'held_out': 0.5}, 'test 1', 88.0),
  ],
)
def test_the_error_is_that_on_the_data_of_the_students(recorded, change, test, told, monkeypatch, capsys):
  errors.warn_once.cache_clear()
  monkeypatch.setattr(teacher_lib, 'evaluate_split', lambda *args: {'test_error': 88.0})
  trained_on, config = digits.get_config(), digits.get_config()
  config.data.update(change)
  config.distill.teacher = 'runs/teacher'
  teacher = types.SimpleNamespace(config=trained_on, test_error=recorded, network=None, variables={}, facts=FACTS)
  teacher_lib.tell_error(teacher, config, range(500), dataclasses.replace(FACTS, test=test), Replicas())
  out, err = capsys.readouterr()
  name = 'data' if 'name' in change else 'digits'
  word = 'held-out' if 'held_out' in change else 'test'
  assert out == f'teacher runs/teacher: {word} error {told:.2f}% on {name}\n'
  assert ('no better than chance' in err) == (told == 88.0)


@pytest.mark.parametrize(
  ('change', 'facts', 'warning'),
  [
    ({}, {}, ''),
    ({}, {'train': 'train 2'}, 'the train split has train 2 (there: train 1)'),
    ({}, {'test': 'test 2'}, 'the test split has test 2 (there: test 1)'),
    ({}, {'classes': ('ant', 'cat', 'cow')}, "the class 'cat' (there: 'bee')"),
    ({}, {'train': '', 'test': '', 'classes': ()}, ''),  # of an older version
    ({'name': 'folder:other'}, {'train': 'train 2'}, ''),
    ({'train_split': 'train[:50%]'}, {'train': 'train 2'}, ''),
  ],
)
def test_a_teacher_of_other_data_under_the_same_name_is_one_line(change, facts, warning, capsys):
  config = digits.get_config()
  config.distill.teacher = 'runs/teacher'
  config.data.update(change)
  teacher = types.SimpleNamespace(config=digits.get_config(), facts=FACTS)
  teacher_lib.compare_data(teacher, config, dataclasses.replace(FACTS, **facts))
  where = 'warning: teacher runs/teacher: trained on other data than digits is now: '
  assert capsys.readouterr().err == (f'{where}{warning}\n' if warning else '')


def test_a_teacher_of_the_classes_in_another_order_is_refused(monkeypatch):
  config = digits.get_config()
  config.distill.teacher = 'runs/teacher'
  monkeypatch.setattr(teacher_lib.Trained, 'open', lambda *args: types.SimpleNamespace(facts=FACTS))
  source = types.SimpleNamespace(image_shape=(8, 8, 1), num_classes=3, classes=('ant', 'bee', 'cow'))
  assert teacher_lib.load_teacher([config], source, Replicas()).facts == FACTS
  source.classes = ('ant', 'cow', 'bee')
  with pytest.raises(UserError, match="in another order: class 1 is 'bee', in data set digits 'cow': expected"):
    teacher_lib.load_teacher([config], source, Replicas())
  for names in (('ant', 'bug', 'cow'), ()):
    source.classes = names
    assert teacher_lib.load_teacher([config], source, Replicas()).facts == FACTS


def test_a_teacher_that_comes_with_the_package():
  config = digits.get_config()
  config.distill.teacher = 'zoo:wrn-16-1-cifar10'
  source = types.SimpleNamespace(image_shape=(32, 32, 3), num_classes=10, classes=())
  teacher = teacher_lib.load_teacher([config], source, Replicas())
  assert (teacher.config.model.depth, teacher.step, teacher.test_error) == (16, 7800, 13.32)
  assert teacher.variables['params']['conv1']['kernel'].shape == (3, 3, 3, 16)
  config.distill.teacher = 'zoo:wrn-16-1-cifar100'
  with pytest.raises(
    UserError, match=r"^config.distill.teacher='zoo:wrn-16-1-cifar100': zoo:wrn-16-1-cifar100: no such"
  ):
    teacher_lib.load_teacher([config], source, Replicas())
