"""Workdirs to export from."""

import pytest

from moonshine_jax.configs import digits
from moonshine_jax.data.splits import Facts
from tests.helpers.saved_networks import save_network


@pytest.fixture(scope='session')
def digits_runs(tmp_path_factory):
  """A folder with the workdirs of a teacher and a student of `digits`."""
  folder = tmp_path_factory.mktemp('export')
  for name, block, teacher in (('teacher', 'S', ''), ('student', 'G(N/8)', folder / 'teacher')):
    config = digits.get_config()
    config.model.block, config.distill.teacher = block, str(teacher)
    (folder / name).mkdir()
    save_network(folder / name, config, Facts((8, 8, 1), 10, (78.0,), (95.0,)))
  return folder
