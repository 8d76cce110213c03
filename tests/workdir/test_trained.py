"""Workdirs that a user made or received, whose network and data are functions: what runs, and what is refused."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from moonshine_jax import config as config_lib
from moonshine_jax.data import sources
from moonshine_jax.errors import UserError
from moonshine_jax.models import factory
from moonshine_jax.report import runs as runs_lib
from moonshine_jax.runtime import user_functions
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.training.pretrained import write_network
from moonshine_jax.training.teacher import load_teacher
from moonshine_jax.workdir.trained import Trained
from moonshine_jax.workdir.workdir import Workdir
from tests.helpers import user


@pytest.fixture
def mine(tmp_path, monkeypatch):
  """A user's file, which counts how often it runs, and a workdir that names its functions, made by another process."""
  monkeypatch.setenv('XDG_STATE_HOME', str(tmp_path / 'state'))
  code = tmp_path / 'mine.py'
  count = f'open({str(tmp_path / "ran")!r}, "a").write("x")\n'
  code.write_text(Path(user.__file__).read_text() + count)
  config = config_lib.create_config(
    {'model.network': f'{code}:with_norm', 'data.name': f'{code}:images', 'data.pad': 0}
  )
  facts = sources.measure_facts(source := sources.open_source(config.data), source.read('train'), source.read('test'))
  network = factory.create_network(config.model, facts)
  variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1, leaf.dtype), network.shapes(facts.image_shape))
  workdir = Workdir(tmp_path / 'run')
  write_network(workdir, config, facts, variables)
  (tmp_path / 'ran').unlink()
  monkeypatch.setattr(user_functions, '_loaded', {})
  for name in [name for name in user_functions.sys.modules if name.startswith('mine_')]:
    monkeypatch.delitem(user_functions.sys.modules, name)
  factory.user.create_user_model.cache_clear()
  return code, workdir


def test_a_users_own_workdir_opens(mine):
  code, workdir = mine
  trained = Trained.open(workdir)
  assert len(trained.source().read('test')) == 15 and trained.network.model
  assert (code.parent / 'ran').read_text() == 'x'
  # 8x8 of 2 channels: the stem, two stages of stride 2 to 8 and 16 channels, 3 classes.
  assert workdir.cost.multiply_adds == 8 * 8 * 9 * 2 * 8 + 4 * 4 * 9 * 8 * 8 + 2 * 2 * 9 * 8 * 16 + 16 * 3


def test_code_that_has_changed_runs_for_nobody_who_does_not_trust_it(mine):
  code, workdir = mine
  code.write_text(code.read_text() + '# more\n')
  refusal = f"^{workdir}: '{code}:with_norm': not run: {code} is not what was recorded in {workdir} when the run began"
  config = config_lib.create_config({'distill.teacher': str(workdir), 'data.name': 'digits'})
  with pytest.raises(UserError, match=refusal):
    Trained.open(workdir)
  with pytest.raises(UserError, match="^config.distill.teacher='.*run': " + refusal[1:]):
    load_teacher([config], sources.open_source(config.data), Replicas())
  assert not (code.parent / 'ran').exists()
  assert Trained.open(workdir, trust_code=True).source().num_classes == 3


def test_a_workdir_from_a_stranger(mine, tmp_path, monkeypatch):
  """With code in it or beside it, and with records that say that all is well."""
  code, workdir = mine
  received = tmp_path / 'received'
  shutil.copytree(workdir, received / 'run')
  code.rename(received / 'run' / code.name)
  code.symlink_to(received / 'run' / code.name)
  refusal = f"^{received}/run: '{code}:with_norm': not run: {code} lies in {received}/run, which is read: expected --tr"
  with pytest.raises(UserError, match=refusal):
    Trained.open(received / 'run')
  code.unlink()
  (received / 'run' / code.name).rename(code)
  monkeypatch.setenv('XDG_STATE_HOME', str(tmp_path / 'another machine'))
  with pytest.raises(UserError, match=f'{code} is none that you named to a run on this machine: expected --trust_code'):
    Trained.open(received / 'run')
  assert not (tmp_path / 'ran').exists()


def test_data_of_a_stranger_is_not_read_and_not_in_the_way_of_the_network(mine):
  code, workdir = mine
  path = workdir.path / 'environment.jsonl'
  start = json.loads(path.read_text())
  del start['functions'][f'{code}:images']
  path.write_text(json.dumps(start) + '\n')
  trained = Trained.open(workdir)
  with pytest.raises(UserError, match=f"^{workdir}: '{code}:images': not run: {code} was not recorded in {workdir}: "):
    trained.source()


def test_configs_and_reports_run_nothing(mine, tmp_path):
  code, workdir = mine
  evil = tmp_path / 'runs' / 'run' / 'evil.py'
  shutil.copytree(workdir, evil.parent)
  evil.write_text(code.read_text())
  for name in ('config.json', 'environment.jsonl'):
    path = evil.parent / name
    path.write_text(path.read_text().replace(str(code), str(evil)))
  (evil.parent / 'metrics.jsonl').write_text('{"epoch": 0, "step": 0, "test_error": 50.0}\n')
  assert Workdir(evil.parent).config.model.network == f'{evil}:with_norm'
  (run,) = runs_lib.collect_runs(tmp_path / 'runs')
  assert (run.parameters, run.multiply_adds) == (workdir.cost.parameters, workdir.cost.multiply_adds)
  runs_lib.write_runs([run], tmp_path / 'runs.json')
  assert runs_lib.read_runs(tmp_path / 'runs.json')[0].parameters == run.parameters
  assert not (tmp_path / 'ran').exists()

  path = evil.parent / 'environment.jsonl'
  start = json.loads(path.read_text())
  del start['cost']
  path.write_text(json.dumps(start) + '\n')
  with pytest.raises(UserError, match=f'{evil} lies in {evil.parent}, which is read: expected --trust_code'):
    runs_lib.collect_runs(tmp_path / 'runs')
  assert not (tmp_path / 'ran').exists()
  (run,) = runs_lib.collect_runs(tmp_path / 'runs', trust_code=True)
  assert run.parameters == workdir.cost.parameters


def test_a_run_that_goes_on_says_that_its_code_has_changed(mine, capsys):
  code, workdir = mine
  workdir.begin(workdir.config, workdir.facts, 0)
  assert not capsys.readouterr().err
  code.write_text(code.read_text() + '# more\n')
  for message in (f'warning: {workdir}: {code} has changed since the run began\n', ''):
    workdir.begin(workdir.config, workdir.facts, 0)
    assert capsys.readouterr().err == message
