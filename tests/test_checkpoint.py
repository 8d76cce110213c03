import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moonshine_jax import checkpoint, optim, steps
from moonshine_jax.datasets import Facts
from moonshine_jax.errors import UserError
from moonshine_jax.models import create_model

FACTS = Facts((8, 8, 3), 10, (120.0, 128.0, 130.0), (60.0, 70.0, 80.0))


def make_state(config, seed=0):
  network = steps.Network(create_model(config.model, 10), FACTS.mean, FACTS.std)
  tx = optim.create_optimizer(config, steps_per_epoch=1)
  return steps.create_train_state(network, FACTS.image_shape, tx, jax.random.key(seed), jax.random.key(seed))


def saved(config, workdir, step=3):
  """A checkpoint of a state that is nowhere at its initial value."""
  state = jax.tree.map(lambda x: np.array(x) + np.ones((), x.dtype), make_state(config))
  state = state.replace(step=np.array(step, np.int32))
  checkpoints = checkpoint.Checkpoints(workdir, create=True)
  checkpoints.save(state, config, FACTS)
  checkpoints.close()
  return state


def test_a_state_comes_back_as_it_was(config, tmp_path):
  state = saved(config, tmp_path)
  restored = checkpoint.Checkpoints(tmp_path).state(make_state(config, seed=1))
  jax.tree.map(np.testing.assert_array_equal, restored, state)
  assert [leaf.dtype for leaf in jax.tree.leaves(restored)] == [leaf.dtype for leaf in jax.tree.leaves(state)]


def test_a_workdir_alone_rebuilds_the_network(config, tmp_path):
  config.model.block = 'S,G(N/8),BG(2,M/8)'
  config.model.dtype = 'bfloat16'
  state = saved(config, tmp_path)
  checkpoints = checkpoint.Checkpoints(tmp_path)
  restored_config, facts = checkpoints.metadata()
  assert facts == FACTS and restored_config.to_dict() == config.to_dict()
  network, variables = checkpoints.network()
  assert network.model == create_model(config.model, 10) and network.model.dtype == jnp.bfloat16
  assert (network.mean, network.std) == (FACTS.mean, FACTS.std)
  jax.tree.map(np.testing.assert_array_equal, variables, state.variables)


def test_the_newest_are_kept(config, tmp_path):
  checkpoints = checkpoint.Checkpoints(tmp_path, create=True)
  for step in (1, 2, 3):
    checkpoints.save(jax.tree.map(np.array, make_state(config)).replace(step=np.array(step)), config, FACTS)
  checkpoints.close()
  assert checkpoint.Checkpoints(tmp_path).newest == 3
  assert sorted(path.name for path in (tmp_path / 'checkpoints').iterdir()) == ['2', '3']


@pytest.mark.parametrize(('field', 'value', 'message'), [
  # As many layers, of other shapes.
  ('block', 'G(2)', r"checkpoints/3: \['params'\].* has the shape .* its config asks for"),
  ('depth', 16, 'checkpoints/3: not a checkpoint of its config')])
def test_another_network_is_refused(config, tmp_path, field, value, message):
  config.model.block = 'G(4)'
  saved(config, tmp_path)
  config.model[field] = value
  with pytest.raises(UserError, match=message):
    checkpoint.Checkpoints(tmp_path).state(make_state(config))


def test_what_holds_no_checkpoint_is_named(tmp_path):
  with pytest.raises(UserError, match='nowhere: no such folder'):
    checkpoint.Checkpoints(tmp_path / 'nowhere')
  with pytest.raises(UserError, match='no checkpoint in it'):
    checkpoint.Checkpoints(tmp_path)
  (tmp_path / 'checkpoints').mkdir()
  with pytest.raises(UserError, match='no checkpoint in it'):
    checkpoint.Checkpoints(tmp_path)
