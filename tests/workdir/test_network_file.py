"""Networks in files: what is in one, and what is no good one. Headers are read as safetensors specifies them."""

import json
import pickle
import struct
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from moonshine_jax.configs import digits
from moonshine_jax.cost import counting
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError
from moonshine_jax.models.factory import create_network
from moonshine_jax.workdir import zoo
from moonshine_jax.workdir.network_file import NetworkFile, open_workdir, write_network_file
from moonshine_jax.workdir.trained import Trained
from moonshine_jax.workdir.workdir import Workdir

FACTS = Facts((8, 8, 1), 10, (78.0,), (95.0,), tuple('0123456789'), '3 images of hash a', '2 images of hash b')
RECORDS = [{'epoch': 3, 'step': 12, 'test_error': 4.5}]
STARTS = [{'step': 0, 'commit': 'abc', 'functions': {}, 'cost': {'parameters': 7, 'multiply_adds': None}}]


def small():
  config = digits.get_config()
  config.model.depth = 10
  rng = np.random.default_rng(0)
  shapes = create_network(config.model, FACTS).shapes(FACTS.image_shape)
  return config, jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """A file, its config and its variables."""
  path = tmp_path_factory.mktemp('files') / 'small.safetensors'
  config, variables = small()
  write_network_file(path, 12, config, FACTS, variables, RECORDS, STARTS)
  return path, config, variables


def taken_apart(path):
  """The header and the bytes of all arrays."""
  content = Path(path).read_bytes()
  (length,) = struct.unpack('<Q', content[:8])
  return json.loads(content[8 : 8 + length]), content[8 + length :]


def put_together(path, header, arrays):
  text = json.dumps(header).encode()
  path.write_bytes(struct.pack('<Q', len(text)) + text + arrays)


def test_the_bytes_are_the_variables_and_what_the_run_says(written):
  path, config, variables = written
  header, content = taken_apart(path)
  metadata = header.pop('__metadata__')
  for keys, leaf in jax.tree.leaves_with_path(variables):
    array = header.pop('/'.join(key.key for key in keys))
    begin, end = array['data_offsets']
    assert (array['dtype'], array['shape']) == ('F32', list(leaf.shape))
    assert content[begin:end] == leaf.tobytes()
  assert not header and (metadata['format'], metadata['version']) == ('moonshine_jax network', '1')
  run = json.loads(metadata['run'])
  assert run['config'] == json.loads(config.to_json()) and run['facts']['test'] == '2 images of hash b'
  assert (run['step'], run['records'], run['starts']) == (12, RECORDS, STARTS)


def test_it_is_read_as_a_workdir_is(written):
  path, config, variables = written
  trained = Trained.open(path)
  jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y, strict=True), trained.variables, dict(variables))
  assert (trained.step, trained.facts, trained.test_error) == (12, FACTS, 4.5)
  assert trained.config.to_dict() == config.to_dict() and trained.network.model.depth == 10
  file = trained.workdir
  assert (file.records, file.starts, file.step, file.cost.parameters, file.begun) == (RECORDS, STARTS, 12, 7, True)
  assert pickle.loads(pickle.dumps(trained)).workdir.facts == FACTS  # as other processes get it


def test_a_parameter_may_be_a_scalar(tmp_path, monkeypatch):
  """As the slope of nn.PReLU is, and the temperature of logits."""
  config, variables = small()
  variables['params']['slope'] = np.float32(0.25)
  shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
  monkeypatch.setattr('moonshine_jax.models.network.Network.shapes', lambda *_: shapes)
  write_network_file(tmp_path / 'a.safetensors', 12, config, FACTS, variables, RECORDS, STARTS)
  read, _ = NetworkFile(tmp_path / 'a.safetensors').restore_variables(lambda config: None)
  assert read['params']['slope'].shape == () and read['params']['slope'] == 0.25


def test_what_stands_for_a_workdir(written, tmp_path):
  (tmp_path / 'folder.safetensors').mkdir()
  assert type(open_workdir(tmp_path / 'folder.safetensors')) is type(open_workdir('runs/teacher')) is Workdir
  assert isinstance(open_workdir(written[0]), NetworkFile) and open_workdir(str(written[0])).file == written[0]
  network = open_workdir('zoo:wrn-16-1-cifar10')
  assert str(network) == 'zoo:wrn-16-1-cifar10' and open_workdir(network) is network


def change_header(header, content):
  header['__metadata__']['run'] = header['__metadata__']['run'].replace('"test_error": 4.5', '"test_error": 1.5')
  return header, content


def change_array(header, content):
  return header, content[:-1] + bytes([content[-1] ^ 1])


def swap_arrays(header, content):
  one, other = (f'params/conv2_block1/{name}/scale' for name in ('bn1', 'bn2'))
  assert header[one]['shape'] == header[other]['shape']
  header[one], header[other] = header[other], header[one]
  return header, content


def reshape_array(header, content):
  header['params/conv1/kernel']['shape'].reverse()
  return header, content


@pytest.mark.parametrize('change', [change_header, change_array, swap_arrays, reshape_array])
def test_a_changed_file_is_one_line(written, tmp_path, change):
  path = tmp_path / 'changed.safetensors'
  put_together(path, *change(*taken_apart(written[0])))
  for read in (lambda: Trained.open(path), lambda: open_workdir(path).config):
    with pytest.raises(UserError, match=r'changed.safetensors: damaged \(it is not what was written: .*: expected a '):
      read()


@pytest.mark.parametrize('length', [0, 4, 100, 2000, -1])
def test_a_truncated_file_is_one_line(written, tmp_path, length):
  path = tmp_path / 'short.safetensors'
  path.write_bytes(written[0].read_bytes()[:length])
  with pytest.raises(UserError) as error:
    Trained.open(path)
  assert str(error.value).startswith(f'{path}: damaged (') and '\n' not in str(error.value)


def test_other_files(written, tmp_path):
  header, content = taken_apart(written[0])
  header['__metadata__']['version'] = '2'
  put_together(tmp_path / 'newer.safetensors', header, content)
  with pytest.raises(UserError, match="newer.safetensors: of version '2' of its format: expected '1'"):
    Trained.open(tmp_path / 'newer.safetensors')
  save_file({'layer1.weight': np.zeros(3)}, tmp_path / 'torch.safetensors')
  with pytest.raises(UserError, match='torch.safetensors: no network of this package: .*moonshine import-torch$'):
    Trained.open(tmp_path / 'torch.safetensors')
  with pytest.raises(UserError, match='none.safetensors: no such file: expected a file of `moonshine zoo add`$'):
    Trained.open(tmp_path / 'none.safetensors')


def test_whole_files_that_do_not_fit_together(tmp_path):
  config, variables = small()
  path = tmp_path / 'odd.safetensors'
  del variables['params']['conv1']
  write_network_file(path, 12, config, FACTS, variables, RECORDS, STARTS)
  with pytest.raises(UserError, match=r"'params/conv1/kernel' has the shape None, and its config asks for \(3, 3, 1, "):
    Trained.open(path)
  write_network_file(path, 12, config, FACTS, variables, [], STARTS)
  with pytest.raises(UserError, match=r'damaged \(Expected `array` of length >= 1 - at `\$.records`\)'):
    Trained.open(path)
  config.model.block = 'X'
  write_network_file(path, 12, config, FACTS, variables, RECORDS, STARTS)
  with pytest.raises(UserError, match=f"^{path}: config.model.block='X'"):
    Trained.open(path)


def test_code_that_a_file_names_does_not_run(tmp_path):
  mine = tmp_path / 'mine.py'
  mine.write_text('raise SystemExit("run")\n')
  config, variables = small()
  config.model.network = f'{mine}:network'
  path = tmp_path / 'user.safetensors'
  write_network_file(path, 12, config, FACTS, variables, RECORDS, STARTS)
  with pytest.raises(UserError, match=f'^{path}: .*mine.py:network.: not run: .* was not recorded in .*--trust_code'):
    Trained.open(path)


@pytest.mark.parametrize('name', zoo.zoo_names())
def test_the_networks_of_the_package_say_what_made_them(name):
  trained = Trained.open(name)
  last = trained.workdir.starts[-1]
  # One comes from a run that was cut off (docs/guides/zoo.md), and from a tree with a change on its commit
  # (docs/results/speed.md).
  cut_off = name == 'zoo:wrn-40-2-cifar10'
  assert trained.test_error is not None
  assert trained.record['epoch'] == (180 if cut_off else trained.config.epochs)
  assert last['commit'] and last['command'] and last['config'] and last['data']
  assert ('+' in last['commit']) == cut_off
  assert not trained.refusal and trained.config.data.data_dir == ''  # data that others have
  assert trained.workdir.cost == counting.count_cost(trained.network.model, trained.facts.image_shape)
