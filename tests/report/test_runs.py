import dataclasses
import json
import shutil

import pytest

from moonshine_jax import config as config_lib
from moonshine_jax import fields
from moonshine_jax.configs import cifar10
from moonshine_jax.errors import UserError
from moonshine_jax.report import runs as runs_lib
from tests.helpers import made_runs

SMALL = {'model.depth': 10, 'model.width': 1, 'epochs': 2}
BLOCKS = {'distill.blockwise': True, 'distill.teacher': 'x'}


@pytest.fixture
def folder(tmp_path):
  made_runs.write(tmp_path / 'teacher', [9.0, 5.0], **SMALL)
  made_runs.write(
    tmp_path / 'a' / 'student',
    [8.0, 6.0],
    **SMALL,
    **{'model.block': 'G( N/8)', 'distill.teacher': str(tmp_path / 'teacher'), 'distill.alpha': 0.0},
  )
  made_runs.write(tmp_path / 'unfinished', [7.0], **SMALL)
  return tmp_path


def test_runs_of_a_folder(folder):
  teacher, student, unfinished = runs_lib.collect_runs(folder)
  assert (teacher.name, student.name, unfinished.name) == ('teacher', 'a/student', 'unfinished')
  assert (teacher.finished, unfinished.finished) == (True, False)
  assert (student.block, student.regime, student.config.distill.teacher) == ('G(N/8)', 'AT', 'teacher')
  assert (student.epochs, student.test_errors, student.error) == ((1, 2), (8.0, 6.0), 6.0)
  stem, last = 27 * 16, 4 * 64 + 64 * 10 + 10
  conv2, conv3, conv4 = 2 * (64 + 9 * 16 * 16), 64 + 9 * 16 * 32 + 128 + 9 * 32 * 32 + 16 * 32, 57_728
  assert teacher.parameters == stem + conv2 + conv3 + conv4 + last
  assert student.starts[0]['commit'] == 'abc123' and 'config' not in student.starts[0]


def test_parts_of_a_run_are_none_and_folders_of_their_names_are(folder):
  made_runs.write(folder / 'a' / 'blockwise' / 'B', [9.0, 5.0], **SMALL, **BLOCKS)
  made_runs.write(folder / 'a' / 'start' / 'B', [9.0], **SMALL | {'epochs': 0})
  made_runs.write(folder / 'alone', [9.0, 5.0], **SMALL, **BLOCKS)
  assert len(runs_lib.collect_runs(folder)) == 3
  made_runs.write(folder / 'blockwise', [9.0, 5.0], **SMALL, **{'distill.start': 'blockwise', 'distill.teacher': 'x'})
  made_runs.write(folder / 'start' / 'mine', [9.0, 5.0], **SMALL)
  names = {run.name for run in runs_lib.collect_runs(folder)}
  assert names == {'teacher', 'a/student', 'unfinished', 'blockwise', 'start/mine'}


def test_runs_are_the_same_after_json(folder):
  runs = runs_lib.collect_runs(folder)
  runs_lib.write_runs(runs, folder / 'runs.json')
  again = runs_lib.read_runs(folder / 'runs.json')
  assert [run.recipe for run in again] == [run.recipe for run in runs]
  plain = [[dataclasses.replace(run, config=config_lib.to_json(run.config)) for run in side] for side in (runs, again)]
  assert plain[0] == plain[1]
  lines = (folder / 'runs.json').read_text().splitlines()
  assert len(lines) == len(runs) + 2  # a line for each run, so that a person can read what differs


def test_teacher_is_named_after_its_folder_moved(folder):
  shutil.move(folder / 'teacher', folder / 'b' / 'teacher')
  assert runs_lib.collect_runs(folder)[0].name == 'b/teacher'
  made_runs.write(folder / 'c' / 'teacher', [9.0, 5.0], **SMALL)  # now two runs may be the teacher
  assert runs_lib.collect_runs(folder)[0].name == 'a/student'


@pytest.mark.parametrize(
  ('damage', 'message'),
  [
    (lambda text: text[:100], r'runs.json: damaged \('),
    (lambda text: '[]', r'runs.json: damaged \('),
    (lambda text: text.replace('"facts"', '"fakts"'), r'runs.json: damaged \('),
    (lambda text: text.replace('"epochs": 2', '"epochs": -2'), r'runs.json: damaged \(config.epochs=-2'),
    (lambda text: '{"runs": []}', 'runs.json: no finished run in it'),
  ],
)
def test_damaged_json_is_refused(folder, damage, message):
  runs_lib.write_runs(runs_lib.collect_runs(folder), folder / 'runs.json')
  (folder / 'runs.json').write_text(damage((folder / 'runs.json').read_text()))
  with pytest.raises(UserError, match=message):
    runs_lib.read_runs(folder / 'runs.json')


def test_a_folder_without_finished_runs_is_named(tmp_path):
  with pytest.raises(UserError, match='no finished run in it'):
    runs_lib.collect_runs(tmp_path)
  with pytest.raises(UserError, match='no such file or folder'):
    runs_lib.read_runs(tmp_path / 'none')


def test_a_run_of_an_older_version_is_named(folder):
  path = folder / 'teacher' / 'environment.jsonl'
  start = json.loads(path.read_text())
  del start['data']
  path.write_text(json.dumps(start) + '\n')
  with pytest.raises(UserError, match=r"environment.jsonl or .*not those of a run of this version .KeyError\('data'\)"):
    runs_lib.collect_runs(folder)
  path.unlink()
  with pytest.raises(UserError, match='environment.jsonl or .*not those of a run of this version'):
    runs_lib.collect_runs(folder)
  (folder / 'teacher' / 'metrics.jsonl').unlink()  # a run that stopped before it began
  assert [run.name for run in runs_lib.collect_runs(folder)] == ['a/student', 'unfinished']


def test_a_recipe_is_what_its_regime_uses(folder):
  teacher, student, _ = runs_lib.collect_runs(folder)
  assert not any(name.startswith('distill.') for name in teacher.recipe)
  assert {name for name in student.recipe if name.startswith('distill.')} == {
    'distill.teacher',
    'distill.beta',
    'distill.ce_weight',
    'distill.at_form',
    'distill.at_warmup',
  }
  assert not {'seed', 'model.seed', 'model.block', 'data.data_dir', 'data.feed'} & student.recipe.keys()


def test_where_a_student_starts_is_of_its_recipe(folder):
  _, student, other = runs_lib.collect_runs(folder)
  other.config.distill.start = student.config.distill.start = 'blockwise'
  for run in (student, other):
    assert run.recipe['distill.start'] == 'blockwise' and run.recipe['blockwise.epochs'] == 1


def test_the_recipe_of_the_paper_is_the_config():
  values = config_lib.flatten(cifar10.get_config())
  assert {name: values[name] for name in fields.RECIPE} == fields.RECIPE
