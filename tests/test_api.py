"""`moonshine_jax.distil` as a user calls it."""

import jax
import numpy as np
import pytest

import moonshine_jax
from moonshine_jax import api
from moonshine_jax import config as config_lib
from moonshine_jax.configs import cifar10
from moonshine_jax.data import sources
from moonshine_jax.errors import UserError
from moonshine_jax.training import evaluation
from moonshine_jax.workdir.trained import Trained
from tests.helpers import user

FIELDS = {'epochs': 1, 'batch_size': 16, 'data.pad': 1, 'distill.alpha': 0.0}


def test_the_defaults_are_those_of_the_configs():
  ours, theirs = (config_lib.flatten(config) for config in (config_lib.create_config(), cifar10.get_config()))
  assert ours.keys() == theirs.keys()
  assert ours == theirs
  assert api.decays_in_proportion(200) == (60, 120, 160) and api.decays_in_proportion(20) == (6, 12, 16)
  assert api.decays_in_proportion(1) == (1,)


def test_students_of_a_network_in_hand(small_runs, tmp_path, capsys):
  model = user.with_norm(3)
  shapes = jax.eval_shape(lambda key: model.init(key, np.zeros((1, 8, 8, 2)), train=False), jax.random.key(0))
  rng = np.random.default_rng(1)
  variables = jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes)
  arguments = (user.with_norm, variables, user.images, 'G(N)', tmp_path, FIELDS)
  (cheap,) = moonshine_jax.distil(*arguments, mean=0, std=255)
  teacher_line, table = capsys.readouterr().out.split('\n', 1)
  assert 'with_norm (teacher) | S ' in table and 'with_norm           | G(N) ' in table

  # The teacher is the user's network, on pixels from 0 to 1.
  images, labels = user.images()['test']
  logits = jax.jit(lambda variables, x: model.apply(variables, x, train=False))(variables, images / np.float32(255))
  error = 100 * np.mean(np.argmax(logits, -1) != labels)
  assert evaluation.evaluate_workdir(tmp_path / 'teacher')['test_error'] == pytest.approx(error)
  assert f'| {error:.2f} (1) ' in table.splitlines()[2]
  assert teacher_line == f'teacher {tmp_path}/teacher: test error {error:.2f}% on images'

  assert cheap.workdir.path == tmp_path / 'students' / 'block-G-N'
  logits, activations = jax.jit(lambda variables: cheap.network(variables, images, train=False))(cheap.variables)
  assert 100 * np.mean(np.argmax(logits, -1) != labels) == pytest.approx(cheap.record['test_error'])
  assert [each.shape[1:] for each in activations] == [(4, 4, 8), (2, 2, 16)]
  assert cheap.variables['params']['Stage_0']['Conv_0'].keys() == {'grouped', 'bn', 'pointwise'}
  jax.tree.map(np.testing.assert_array_equal, Trained.open(cheap.workdir).variables, cheap.variables)

  (again,) = moonshine_jax.distil(*arguments, mean=0, std=255)  # all is done
  assert again.record == cheap.record and capsys.readouterr().out == f'{teacher_line}\n{table}'


def test_a_teacher_is_evaluated_on_what_its_students_are(small_runs, tmp_path):
  names = {'model.network': 'tests.helpers.user:with_norm', 'data.name': 'tests.helpers.user:images'}
  config = config_lib.create_config({**names, 'data.held_out': 0.4})
  shapes = jax.eval_shape(
    lambda key: user.with_norm(3).init(key, np.zeros((1, 8, 8, 2)), train=False), jax.random.key(0)
  )
  rng = np.random.default_rng(1)
  variables = jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), shapes)
  api.write_teacher(tmp_path, config, variables, 0, 255)
  teacher = Trained.open(tmp_path)
  _, held_out = sources.read_splits(teacher.source(), config.data)
  logits, _ = teacher.network(teacher.variables, held_out.images, train=False)
  assert teacher.test_error == pytest.approx(100 * np.mean(np.argmax(logits, -1) != held_out.labels))
  assert teacher.facts.test == sources.fingerprint(held_out)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'network': lambda num_classes: None}, 'expected a function that can be found again by its name'),
    ({'network': user.never_training}, 'training leaves running statistics as they are in bn: nothing tells Untold'),
    ({'overrides': {'epoch': 1}}, "overrides: 'epoch': no such field: expected some of seed, batch_size"),
    ({'overrides': {'epochs': 'one'}}, "config.epochs='one': expected an integer"),
    ({'blocks': 'G'}, "config.distill.students: 'block=G': config.model.block='G': 'G' is not a block"),
    ({'variables': {}}, 'the variables are not those of the network: .*Stage_0.* is missing .of 14 arrays; 0 given.'),
    (
      {'mean': (1.0, 2.0, 3.0)},
      r'mean=\(1.0, 2.0, 3.0\): expected one number, or 2, one for each channel, from 0 to 255',
    ),
    (
      {'mean': 0.3, 'std': 0.37},
      'mean=0.3,0.3, std=0.37,0.37: expected the units of the pixels, from 0 to 255, as mea',
    ),
  ],
)
def test_mistakes(changes, message, tmp_path):
  arguments = {
    'network': user.with_norm,
    'variables': {},
    'data': user.images,
    'blocks': 'G(N)',
    'overrides': FIELDS,
  }
  with pytest.raises(UserError, match=message):
    moonshine_jax.distil(**arguments | changes, workdir=tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
