"""The names of the networks that come with the package."""

import pytest

from moonshine_jax.errors import UserError
from moonshine_jax.workdir import zoo
from moonshine_jax.workdir.workdir import Workdir

NAME = 'zoo:wrn-16-1-cifar10'


def test_a_name_is_that_of_a_file_in_the_package():
  assert NAME in zoo.zoo_names()
  assert zoo.zoo_file(NAME) == zoo.FOLDER / 'wrn-16-1-cifar10.safetensors' and zoo.zoo_file(NAME).is_file()


def test_an_unknown_name_is_one_line_with_the_nearest(monkeypatch, tmp_path):
  with pytest.raises(UserError, match=f'^zoo:wrn-16-cifar: no such network .*`moonshine zoo`, as .*{NAME}'):
    zoo.zoo_file('zoo:wrn-16-cifar')
  with pytest.raises(UserError, match='^zoo:../zoo/wrn-16-1-cifar10: no such network'):  # no way out of the folder
    zoo.zoo_file('zoo:../zoo/wrn-16-1-cifar10')
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'mine.safetensors').touch()
  with pytest.raises(UserError, match='^zoo:mine.safetensors: .*expected a path without zoo:, as mine.safetensors$'):
    zoo.zoo_file('zoo:mine.safetensors')


def test_a_name_is_the_same_from_every_folder(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  assert zoo.absolute_workdir(NAME) == NAME
  assert zoo.absolute_workdir('runs/teacher') == f'{tmp_path}/runs/teacher'


def test_no_run_is_kept_in_a_name():
  with pytest.raises(UserError, match=f'^{NAME}: names a network that comes with the package, .*: expected a folder$'):
    Workdir(NAME).check_path()
