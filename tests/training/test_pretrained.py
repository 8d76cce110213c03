"""Networks whose variables are given: their workdirs are those of teachers, and nothing trains on in them."""

import copy

import jax
import numpy as np
import pytest

from moonshine_jax.data import sources, splits
from moonshine_jax.errors import UserError
from moonshine_jax.models.factory import create_network
from moonshine_jax.report import runs as runs_lib
from moonshine_jax.report import table_formats
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.training import evaluation, loop, pretrained
from moonshine_jax.training.teacher import load_teacher
from moonshine_jax.workdir.trained import Trained

pytestmark = pytest.mark.usefixtures('small_runs')


@pytest.fixture
def network(config):
  """The facts, the variables and the test split of a network that is given."""
  source = sources.open_source(config.data)
  facts = splits.Facts(source.image_shape, source.num_classes, (10.0, 20.0, 30.0), (50.0,) * 3)
  model = create_network(config.model, facts)
  variables = jax.tree.map(np.asarray, model.init(jax.random.key(7), facts.image_shape))
  return facts, variables, source.read('test')


def test_a_given_network_is_evaluated_distilled_and_reported(config, network, tmp_path):
  facts, variables, test_split = network
  record = pretrained.write_network(tmp_path / 'teacher', config, *network)
  trained = Trained.open(tmp_path / 'teacher')
  rebuilt = trained.network
  jax.tree.map(np.testing.assert_array_equal, trained.variables, variables)
  assert trained.facts == facts and rebuilt.mean == facts.mean
  images = (test_split.images.astype(np.float32) - facts.mean) / np.float32(50)
  logits, _ = jax.jit(rebuilt.model.apply)(variables, images)
  assert record['test_error'] == pytest.approx(100 * np.mean(np.argmax(logits, -1) != test_split.labels))
  result = evaluation.evaluate_workdir(tmp_path / 'teacher')
  assert result['step'] == 0 and result['test_error'] == record['test_error']

  config.distill.teacher = str(tmp_path / 'teacher')
  teacher = load_teacher([config], sources.open_source(config.data), Replicas())
  assert teacher.network == rebuilt
  jax.tree.map(np.testing.assert_array_equal, teacher.variables, variables)
  (run,) = runs_lib.collect_runs(tmp_path)
  assert run.finished and run.starts[0]['step'] == 0 and run.epochs == (0,)
  assert (
    f'| WRN-10-1 | S     | 77,875     | 781,504       | {record["test_error"]:.2f} (1) '
    in table_formats.summary_markdown([run])
  )


def test_the_same_is_left_alone_and_another_refused(config, network, tmp_path):
  facts, variables, _ = network
  first = pretrained.write_network(tmp_path / 'given', config, facts, variables)
  assert first == {'epoch': 0, 'step': 0}  # no data, no error
  before = {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()}
  assert pretrained.write_network(tmp_path / 'given', config, *network) == first
  others = jax.tree.map(lambda leaf: leaf + 1, variables)
  with pytest.raises(UserError, match='given holds a network with other variables: expected the same'):
    pretrained.write_network(tmp_path / 'given', config, facts, others)
  other = copy.deepcopy(config)
  other.model.dtype = 'bfloat16'
  with pytest.raises(UserError, match="given holds a run of another config: config.model.dtype='bfloat16'"):
    pretrained.write_network(tmp_path / 'given', other, facts, variables)
  with pytest.raises(UserError, match='given holds a run of another config: config.epochs=2 .there: 0.'):
    loop.train_and_evaluate(config, tmp_path / 'given')
  config.epochs = 0
  with pytest.raises(UserError, match='^config.epochs=0: expected at least 1'):
    loop.train_and_evaluate(config, tmp_path / 'given')
  assert {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()} == before
  with pytest.raises(UserError, match='no finished run'):  # it has no error to show
    runs_lib.collect_runs(tmp_path)


def test_variables_that_are_not_the_networks(config, network, tmp_path):
  facts, variables, _ = network
  for spoil, message in [
    (lambda each: each['params'].pop('fc'), r"\['params'\]\['fc'\]\['bias'\] is missing"),
    (lambda each: each.pop('batch_stats'), r"\['batch_stats'\]\['bn'\]\['mean'\] is missing"),
    (lambda each: each['params'].update(more=np.zeros(2)), r"\['params'\]\['more'\] is not in it"),
    (lambda each: each['params']['fc'].update(bias=np.zeros(4)), r'has the shape \(4,\): expected \(3,\)'),
    (lambda each: each['params']['fc'].update(bias=np.full(3, np.nan, np.float32)), 'fc.*is not finite'),
  ]:
    spoiled = jax.tree.map(lambda leaf: leaf, variables)
    spoil(spoiled)
    with pytest.raises(UserError, match=message):
      pretrained.write_network(tmp_path / 'given', config, facts, spoiled)
    assert not list(tmp_path.glob('given/*.json*'))
