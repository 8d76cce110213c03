import copy
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError
from moonshine_jax.models.factory import create_model, create_network
from moonshine_jax.training import optimizer
from moonshine_jax.training import step as step_lib
from moonshine_jax.workdir import checkpoint
from moonshine_jax.workdir.trained import Trained
from tests.conftest import small_config

FACTS = Facts((8, 8, 3), 10, (120.0, 128.0, 130.0), (60.0, 70.0, 80.0))


def make_state(config, seed=0):
  network = create_network(config.model, FACTS)
  tx = optimizer.create_optimizer(config, steps_per_epoch=1)
  return step_lib.create_train_state(network, FACTS.image_shape, tx, jax.random.key(seed), jax.random.key(seed))


def saved(config, workdir, step=3, offset=1):
  """A checkpoint of a state that is nowhere at its initial value, in the middle of an epoch."""
  state = jax.tree.map(lambda x: np.array(x) + np.asarray(offset, x.dtype), make_state(config))
  state = state.replace(step=np.array(step, np.int32))
  checkpoints = checkpoint.Checkpoints(workdir, create=True)
  checkpoints.save(step, state.trees, config, FACTS, {'loss': np.array([offset, 1 / 3], np.float32)})
  checkpoints.close()
  return state


def assert_equal(ours, theirs):
  jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y, strict=True), ours, theirs)


def test_a_state_comes_back_as_it_was(config, tmp_path):
  state = saved(config, tmp_path)
  like = make_state(config, seed=1)
  trees, metadata = checkpoint.Checkpoints(tmp_path).restore(3, config, like.trees)
  assert_equal(like.with_trees(trees), state)
  assert metadata.step == 3 and metadata.epoch_metrics.keys() == {'loss'}
  np.testing.assert_array_equal(metadata.epoch_metrics['loss'], np.array([1, 1 / 3], np.float32), strict=True)


def test_a_workdir_alone_rebuilds_the_network(config, tmp_path):
  config.model.block = 'S,G(N/8),BG(2,M/8)'
  config.model.dtype = 'bfloat16'
  state = saved(config, tmp_path)
  trained = Trained.open(tmp_path)
  network = trained.network
  assert trained.facts == FACTS and trained.config.to_dict() == config.to_dict()
  assert network.model == create_model(config.model, 10) and network.model.dtype == jnp.bfloat16
  assert (network.mean, network.std) == (FACTS.mean, FACTS.std)
  assert_equal(trained.variables, state.variables)


def test_the_newest_are_kept(config, tmp_path):
  for step in (1, 2, 3):
    saved(config, tmp_path, step)
  assert checkpoint.Checkpoints(tmp_path).steps == [2, 3]
  assert sorted(path.name for path in (tmp_path / 'checkpoints').iterdir()) == ['2', '3']


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    # As many layers, of other shapes.
    ('block', 'G(2)', r"checkpoints/3: \['progress'\]\['opt_state'\].* has the shape .* its config asks for"),
    ('depth', 16, 'checkpoints/3: not a checkpoint of its config'),
  ],
)
def test_another_network_is_refused(config, tmp_path, field, value, message):
  config.model.block = 'G(4)'
  saved(config, tmp_path)
  before = copy.deepcopy(config)
  config.model[field] = value
  checkpoints, like = checkpoint.Checkpoints(tmp_path), make_state(config).trees
  with pytest.raises(UserError, match=message):
    checkpoints.restore(3, before, like)
  with pytest.raises(UserError, match=f'checkpoints/3: a checkpoint of another config: config.model.{field}='):
    checkpoints.restore(3, config, like)


def test_what_holds_no_checkpoint_is_named(tmp_path):
  with pytest.raises(UserError, match='nowhere: no such folder'):
    checkpoint.Checkpoints(tmp_path / 'nowhere')
  with pytest.raises(UserError, match='no checkpoint in it'):
    checkpoint.Checkpoints(tmp_path)
  (tmp_path / 'checkpoints').mkdir()
  with pytest.raises(UserError, match='no checkpoint in it'):
    checkpoint.Checkpoints(tmp_path)


def make_small_state(offset):
  """What the damage is done to: a state that takes no time to make, in the form of a network's."""
  rng = np.random.default_rng(0)
  params = {'conv': {'kernel': rng.normal(size=(3, 3, 16, 32)).astype(np.float32)}, 'bias': np.zeros(10, np.float32)}
  state = step_lib.TrainState(
    np.int32(0), params, {'mean': np.ones(16, np.float32)}, {'trace': params}, np.zeros(2, np.uint32)
  )
  return jax.tree.map(lambda x: np.array(x) + np.asarray(offset, x.dtype), state)


@pytest.fixture(scope='module')
def two_checkpoints(tiny_images, tmp_path_factory):
  """A workdir with checkpoints 3 and 4, which are unlike everywhere, their config and their states."""
  workdir = tmp_path_factory.mktemp('two')
  config = small_config(tiny_images)
  states = {step: make_small_state(offset=step) for step in (3, 4)}
  checkpoints = checkpoint.Checkpoints(workdir, create=True)
  for step, state in states.items():
    checkpoints.save(step, state.trees, config, FACTS, {'loss': np.array([step, 1 / 3], np.float32)})
  checkpoints.close()
  return workdir, config, states


def flipped(data):
  """With one bit the other way, in the middle of the bytes."""
  middle = len(data) // 2
  return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


DAMAGES = {
  'truncated': lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
  'flipped': lambda path: path.write_bytes(flipped(path.read_bytes())),
  'zeroed': lambda path: path.write_bytes(bytes(path.stat().st_size)),
  'emptied': lambda path: path.write_bytes(b''),
  'deleted': lambda path: path.unlink(),
}


def restored(checkpoints, config):
  """The state of the newest checkpoint that is not damaged."""
  while True:
    step = checkpoints.steps[-1]
    try:
      like = make_small_state(0)
      return like.with_trees(checkpoints.restore(step, config, like.trees)[0])
    except checkpoint.DamagedError as error:
      checkpoints.set_aside(step, error)


@pytest.mark.parametrize('damage', DAMAGES)
def test_each_damaged_file_is_noticed_or_does_no_harm(two_checkpoints, tmp_path, capsys, damage):
  """Of every file of the newest checkpoint in turn: what is read is checkpoint 4 to the bit, or 3 with a warning."""
  workdir, config, states = two_checkpoints
  files = sorted(path.relative_to(workdir) for path in (workdir / 'checkpoints' / '4').rglob('*') if path.is_file())
  noticed = set()
  for i, file in enumerate(files):
    damaged = tmp_path / str(i)
    shutil.copytree(workdir, damaged)
    DAMAGES[damage](damaged / file)
    state = restored(checkpoint.Checkpoints(damaged), config)
    assert_equal(state, states[int(state.step)])
    told = capsys.readouterr().err
    if state.step == 3:
      noticed.add(file.parts[2])
      assert told.startswith(f'warning: {damaged}/checkpoints/4: damaged (') and told.count('\n') == 1, file
      assert told.endswith('going back to checkpoint 3\n')
    else:
      assert told == ''
  print(f'{damage}: {len(files)} files, {len(noticed)}')
  assert noticed >= {'metadata', 'progress', 'variables'}


def test_values_that_orbax_restores_without_a_word_are_noticed(two_checkpoints, tmp_path):
  """An array that was written whole, but is not the one that was saved; so too the metadata."""
  workdir, config, _ = two_checkpoints
  for item in ('variables', 'metadata'):
    damaged = tmp_path / item
    shutil.copytree(workdir, damaged)
    shutil.rmtree(damaged / 'checkpoints' / '4' / item)
    shutil.copytree(damaged / 'checkpoints' / '3' / item, damaged / 'checkpoints' / '4' / item)
    with pytest.raises(checkpoint.DamagedError, match='is not what was written'):
      checkpoint.Checkpoints(damaged).restore(4, config, make_small_state(0).trees)
  path = tmp_path / 'metadata' / 'checkpoints' / '3' / 'metadata' / 'metadata'
  assert '"seed": 0' in path.read_text()
  path.write_text(path.read_text().replace('"seed": 0', '"seed": 1', 1))
  with pytest.raises(checkpoint.DamagedError, match='3: damaged .*metadata are not those that were written'):
    checkpoint.Checkpoints(tmp_path / 'metadata').restore(3, config, make_small_state(0).trees)


def test_without_a_good_checkpoint_nothing_is_begun_anew(two_checkpoints, tmp_path, capsys):
  damaged = tmp_path / 'damaged'
  shutil.copytree(two_checkpoints[0], damaged)
  for step in (3, 4):
    shutil.rmtree(damaged / 'checkpoints' / str(step) / 'metadata')
  with pytest.raises(UserError, match=f'{damaged}/checkpoints/3: damaged .*no good checkpoint is left'):
    Trained.open(damaged)
  assert capsys.readouterr().err.count('going back to checkpoint 3') == 1


def test_a_checkpoint_that_a_run_beside_us_deletes_is_not_damaged(two_checkpoints, tmp_path, capsys, monkeypatch):
  workdir, config, states = two_checkpoints
  beside = tmp_path / 'beside'
  shutil.copytree(workdir, beside)
  shutil.copytree(beside / 'checkpoints' / '4', tmp_path / '5')
  shutil.rmtree(beside / 'checkpoints' / '3')
  checkpoints = checkpoint.Checkpoints(beside)
  read = checkpoints._metadata

  def delete_then_read(step):
    if step == 4:
      (tmp_path / '5').rename(beside / 'checkpoints' / '5')
      shutil.rmtree(beside / 'checkpoints' / '4')
    return read(step)

  monkeypatch.setattr(checkpoints, '_metadata', delete_then_read)
  assert_equal(restored(checkpoints, config), states[4])
  assert capsys.readouterr().err == '' and checkpoints.steps == [5]


def test_a_full_disk_is_noticed_and_leaves_the_older_checkpoints(two_checkpoints, tmp_path):
  """A limit on the size of files stands for the disk."""
  workdir, config, states = two_checkpoints
  shutil.copytree(workdir, tmp_path / 'full')
  folder = tmp_path / 'full' / 'checkpoints'
  checkpoints = checkpoint.Checkpoints(tmp_path / 'full', create=True)
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
  try:
    with pytest.raises(UserError) as error:
      checkpoints.save(5, states[4].replace(step=np.int32(5)).trees, config, FACTS, {})
      checkpoints.wait()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert str(error.value) == (
    f'{folder}: a checkpoint cannot be written: File too large; the newest good checkpoint is {folder}/4'
  )
  assert checkpoints.steps == [3, 4]
  assert_equal(restored(checkpoints, config), states[4])
  checkpoints.save(5, states[4].replace(step=np.int32(5)).trees, config, FACTS, {})  # there is room again
  checkpoints.close()
  assert checkpoints.steps[-2:] == [4, 5]


def test_what_is_not_finite_is_not_saved(two_checkpoints, tmp_path):
  workdir, config, states = two_checkpoints
  shutil.copytree(workdir, tmp_path / 'run')
  checkpoints = checkpoint.Checkpoints(tmp_path / 'run', create=True)
  state = jax.tree.map(np.copy, states[4]).replace(step=np.int32(5))
  state.params['conv']['kernel'][0, 0, 0, 0] = np.inf
  with pytest.raises(UserError, match=r"step 5: .*\['conv'\]\['kernel'\] is not finite.* good checkpoint is .*/4$"):
    checkpoints.save(5, state.trees, config, FACTS, {})
  checkpoints.close()
  assert checkpoints.steps == [3, 4]
