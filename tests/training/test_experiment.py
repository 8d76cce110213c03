"""What cannot be run is refused before any work."""

import shutil

import jax
import pytest

from moonshine_jax.data import sources, tfds
from moonshine_jax.errors import UserError
from moonshine_jax.training import experiment, loop
from moonshine_jax.training import step as step_lib

pytestmark = pytest.mark.usefixtures('small_runs')


def forbid_work(patch):
  """Fails the test where anything is read, prepared or compiled."""
  for target, name in [
    (tfds.TfdsSource, 'read'),
    (sources.DigitsSource, 'read'),
    (step_lib, 'create_train_state'),
  ]:
    patch.setattr(target, name, lambda *args, **kwargs: pytest.fail('work was begun'))


def test_a_teacher_that_does_not_fit_is_refused_before_any_work(config, teacher, tmp_path, monkeypatch):
  forbid_work(monkeypatch)
  config.distill.teacher = teacher[0]
  config.data.name = 'digits'
  with pytest.raises(
    UserError, match=r'config.distill.teacher=.*3 classes and images of \(8, 8, 3\).*10 classes and .*1\)'
  ):
    loop.train_and_evaluate(config, tmp_path / 'student')
  config.distill.teacher = str(tmp_path / 'nowhere')
  with pytest.raises(UserError, match='config.distill.teacher=.*nowhere: no such folder'):
    loop.train_and_evaluate(config, tmp_path / 'student')
  shutil.rmtree(tmp_path / 'teacher' / 'checkpoints')
  config.distill.teacher = teacher[0]
  with pytest.raises(UserError, match='config.distill.teacher=.*teacher: no checkpoint in it'):
    loop.train_and_evaluate(config, tmp_path / 'student')
  assert not (tmp_path / 'student').exists()


def test_a_workdir_of_another_config_is_refused_with_the_difference(config, teacher, monkeypatch):
  workdir, _ = teacher
  forbid_work(monkeypatch)
  config.model.block = 'G(2)'
  config.optimizer.decay_epochs = (1, 2)
  config.data.feed = 'stream'  # makes no difference to the run, and so none here
  with pytest.raises(UserError) as error:
    loop.train_and_evaluate(config, workdir)
  assert str(error.value).startswith(
    f'{workdir} holds a run of another config: '
    "config.model.block='G(2)' (there: 'S'), config.optimizer.decay_epochs=(1, 2) (there: (1,)): "
  )


def test_a_workdir_of_other_data_is_refused_with_the_difference(config, teacher, monkeypatch):
  workdir, _ = teacher
  monkeypatch.setattr(step_lib, 'create_train_state', lambda *args: pytest.fail('work was begun'))
  monkeypatch.setattr(sources, 'fingerprint', lambda split: f'{len(split)} other images')
  with pytest.raises(UserError, match=f'^{workdir} holds a run of other data: the train split has 40 other images'):
    loop.train_and_evaluate(config, workdir)


def test_a_batch_larger_than_the_data_is_refused(config, tmp_path, monkeypatch):
  monkeypatch.setattr(step_lib, 'create_train_state', lambda *args: pytest.fail('work was begun'))
  config.batch_size = 41
  with pytest.raises(UserError, match='config.batch_size=41: expected at most the 40 training examples'):
    loop.train_and_evaluate(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({'data.pad': 9}, 'config.data.pad=9: expected at most 8, the side of an image'),
    ({'epochs': 10**9, 'batch_size': 8}, 'config.epochs=1000000000, .*: expected at most 429496729 epochs of 5 steps'),
    (
      {'optimizer.decay_epochs': (1, 10**9), 'batch_size': 8},
      r'.*decay_epochs=\(1, 1000000000\): expected at most 429',
    ),
  ],
)
def test_what_only_the_data_shows_to_be_too_much(config, tmp_path, monkeypatch, values, message):
  monkeypatch.setattr(step_lib, 'create_train_state', lambda *args: pytest.fail('work was begun'))
  config.update_from_flattened_dict(values)
  with pytest.raises(UserError, match=f'^{message}'):
    loop.train_and_evaluate(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_a_batch_that_the_devices_cannot_share_is_refused(config, tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'local_devices', lambda: [object()] * 3)
  monkeypatch.setattr(experiment, 'Replicas', lambda: [object()] * 3)
  with pytest.raises(UserError, match='config.batch_size=16: expected a multiple of the 3 devices'):
    loop.train_and_evaluate(config, tmp_path)
