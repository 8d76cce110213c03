"""`moonshine_jax.distil` as a user calls it."""

import jax
import numpy as np
import pytest

import moonshine_jax
from configs import cifar10
from moonshine_jax import checkpoint, distillation, evaluate
from moonshine_jax import config as config_lib
from moonshine_jax.errors import UserError
from tests import own

FIELDS = {'epochs': 1, 'batch_size': 16, 'data.pad': 1, 'distill.alpha': 0.0}


def test_the_defaults_are_those_of_the_configs():
  ours, theirs = (config_lib.flatten(config) for config in (distillation.make_config({}), cifar10.get_config()))
  assert ours.keys() == theirs.keys()
  assert {name for name in ours if ours[name] != theirs[name]} == {'model.network', 'data.name'}
  assert distillation.in_proportion(200) == (60, 120, 160) and distillation.in_proportion(20) == (6, 12, 16)
  assert distillation.in_proportion(1) == (1,)


def test_students_of_a_network_in_hand(small_runs, tmp_path, capsys):
  variables = own.with_norm(3).init(jax.random.key(1), np.zeros((1, 8, 8, 2)), train=False)
  arguments = (own.with_norm, variables, own.images, ('G(N)', 'block=S seed=1'), tmp_path, FIELDS)
  cheap, dear = moonshine_jax.distil(*arguments, mean=0, std=255)
  table = capsys.readouterr().out
  assert 'with_norm (teacher) | S ' in table and 'with_norm           | G(N) ' in table

  # The teacher is the user's network, on pixels from 0 to 1.
  images, labels = own.images()['test']
  logits = own.with_norm(3).apply(variables, images / np.float32(255), train=False)
  error = 100 * np.mean(np.argmax(logits, -1) != labels)
  assert evaluate.evaluate(tmp_path / 'teacher')['test_error'] == pytest.approx(error)
  assert f'| {error:.2f} (1) ' in table.splitlines()[2]

  assert [each.workdir.name for each in (cheap, dear)] == ['block-G-N', 'block-S-seed-1']
  logits, activations = cheap.network(cheap.variables, images, train=False)
  assert 100 * np.mean(np.argmax(logits, -1) != labels) == pytest.approx(cheap.record['test_error'])
  assert [each.shape[1:] for each in activations] == [(4, 4, 8), (2, 2, 16)]
  assert cheap.variables['params']['Stage_0']['Conv_0'].keys() == {'grouped', 'bn', 'pointwise'}
  _, found, _ = checkpoint.Checkpoints(cheap.workdir).network()
  jax.tree.map(np.testing.assert_array_equal, found, cheap.variables)

  again, _ = moonshine_jax.distil(*arguments, mean=0, std=255)  # all is done
  assert again.record == cheap.record and capsys.readouterr().out == table


@pytest.mark.parametrize(('changes', 'message'), [
  ({'network': lambda num_classes: None}, 'expected a function that can be found again by its name'),
  ({'overrides': {'epoch': 1}}, "overrides: 'epoch': no such field: expected some of batch_size"),
  ({'overrides': {'epochs': 'one'}}, "config.epochs='one': expected an integer"),
  ({'blocks': 'G'}, "config.distill.students: 'block=G': config.model.block='G': 'G' is not a block"),
  ({'variables': {}}, 'the variables are not those of the network: .*Conv_0.*kernel.* is missing'),
  ({'mean': (1.0, 2.0, 3.0)}, r'mean=\(1.0, 2.0, 3.0\): expected one number, or 2, one for each channel')])
def test_mistakes(changes, message, tmp_path):
  arguments = {'network': own.with_norm, 'variables': {}, 'data': own.images, 'blocks': 'G(N)', 'overrides': FIELDS}
  with pytest.raises(UserError, match=message):
    moonshine_jax.distil(**arguments | changes, workdir=tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
