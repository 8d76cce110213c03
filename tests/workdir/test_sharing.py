"""Files of the networks of runs."""

import json
import shutil

import numpy as np
import pytest

from moonshine_jax.configs import digits
from moonshine_jax.cost import counting
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError
from moonshine_jax.models.factory import create_network
from moonshine_jax.training import pretrained
from moonshine_jax.workdir import metrics, provenance
from moonshine_jax.workdir.sharing import share_network
from moonshine_jax.workdir.trained import Trained

FACTS = Facts((8, 8, 1), 10, (78.0,), (95.0,), train='3 images of hash a', test='2 images of hash b')


def make_workdir(path, **fields):
  """The workdir of a network of depth 10 with a test error of 4.5%, which a run of 0 epochs has left."""
  config = digits.get_config()
  config.update_from_flattened_dict({'model.depth': 10, 'data.data_dir': '/home/me', **fields})
  variables = create_network(config.model, FACTS).init(np.zeros(2, np.uint32), FACTS.image_shape)
  record = {'epoch': 0, 'step': 0, 'test_error': 4.5}
  pretrained.save_network(path, pretrained.config_of_pretrained(config), FACTS, dict(variables), record)
  return path


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  return make_workdir(tmp_path_factory.mktemp('sharing') / 'runs')


@pytest.fixture
def workdir(made, tmp_path):
  """A workdir, a test's own."""
  return shutil.copytree(made, tmp_path / 'runs')


def test_a_file_has_what_its_workdir_records_but_for_paths_of_this_machine(workdir, tmp_path):
  starts = provenance.read_starts(workdir)
  first = {**starts[0], 'command': "/home/me/.venv/bin/python -m moonshine_jax.main '--x=a b'", 'commit': 'abc'}
  lines = [json.dumps({**first, 'data': {**first['data'], 'train': 'older'}}), json.dumps(first)]
  (workdir / provenance.FILE).write_text('\n'.join(lines) + '\n')
  file = share_network(workdir, tmp_path / 'shared.safetensors')
  shared, trained = Trained.open(file), Trained.open(workdir)
  assert shared.facts == trained.facts == FACTS and shared.record == trained.record
  assert trained.config.data.data_dir == '/home/me' and shared.config.data.data_dir == ''
  trained.config.data.data_dir = ''
  assert shared.config.to_dict() == trained.config.to_dict()
  assert [start['command'] for start in file.starts] == ["python -m moonshine_jax.main '--x=a b'"] * 2
  assert 'config' not in file.starts[0] and 'data' not in file.starts[0]
  shown = {**first['config'], 'data': {**first['config']['data'], 'data_dir': ''}}
  assert file.starts[1]['config'] == shown and file.starts[1]['data'] == json.loads(lines[1])['data']
  assert file.starts[1]['commit'] == 'abc'
  assert file.cost == counting.count_cost(trained.network.model, (8, 8, 1))


def test_data_by_another_name(workdir, tmp_path, tiny_images):
  (workdir / 'mine.py').write_text('raise SystemExit("run")\n')
  with pytest.raises(UserError, match='^mine.py:data: names a function: expected a name of the data that others have'):
    share_network(workdir, tmp_path / 'a.safetensors', 'mine.py:data')
  with pytest.raises(UserError, match=r'trained on other data than tiny_images is now: images of \(8, 8, 3\) \(there'):
    share_network(workdir, tmp_path / 'a.safetensors', 'tiny_images', tiny_images)
  assert not (tmp_path / 'a.safetensors').exists()
  file = share_network(workdir, tmp_path / 'a.safetensors', 'digits')
  assert (file.facts.train, file.facts.test) == ('', '')  # which are of another order
  assert file.starts[-1]['data']['train'] == '3 images of hash a'


def test_the_metrics_are_those_of_the_epoch_at_whose_end_the_checkpoint_is(workdir, tmp_path):
  metrics.write(workdir, [{'epoch': 0, 'step': 0, 'test_error': 4.5}, {'epoch': 1, 'step': 7, 'test_error': 3.5}])
  assert share_network(workdir, tmp_path / 'a.safetensors').records == [{'epoch': 0, 'step': 0, 'test_error': 4.5}]


@pytest.mark.parametrize('records', [[{'epoch': 0, 'step': 7, 'test_error': 4.5}], []], ids=['other', 'none'])
def test_a_checkpoint_within_an_epoch_is_not_shared(records, workdir, tmp_path):
  metrics.write(workdir, records)
  with pytest.raises(UserError, match='its newest checkpoint, at step 0, is not at the end of an epoch that its'):
    share_network(workdir, tmp_path / 'a.safetensors')
  assert not (tmp_path / 'a.safetensors').exists()


def test_names_that_others_may_not_have_are_told(tmp_path, monkeypatch, capsys):
  """A network of a user's own is a name in the file: who has not its code, or never ran it, is told so."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'mine.py').write_text(
    'from flax import linen as nn\n'
    'class Net(nn.Module):\n'
    '  num_classes: int\n'
    '  @nn.compact\n'
    '  def __call__(self, images):\n'
    '    for _ in range(3):\n'
    '      images = nn.relu(nn.LayerNorm()(nn.Conv(4, (3, 3))(images)))\n'
    '    return nn.Dense(self.num_classes)(images.mean((1, 2)))\n'
    'def data(): ...\n'
  )
  names = {'model.network': 'mine.py:Net', 'data.name': 'mine.py:data'}
  make_workdir(tmp_path / 'runs', **names)
  capsys.readouterr()
  share_network('runs', 'a.safetensors', trust_code=True)
  assert capsys.readouterr().err == (
    'warning: a.safetensors: names its data mine.py:data, which others may not have: --data=NAME gives another name\n'
    'warning: a.safetensors: names mine.py:Net, and has not its code: to read it takes the same file there\n'
  )
  assert Trained.open('a.safetensors').test_error == 4.5  # here it has run
  monkeypatch.setattr('moonshine_jax.runtime.user_functions.is_loaded', lambda name: False)  # as in another process
  with open('mine.py', 'a') as file:
    file.write('# changed\n')
  with pytest.raises(UserError, match=r"^a.safetensors: 'mine.py:Net': not run: .* is not what was recorded in a.safe"):
    Trained.open('a.safetensors')
