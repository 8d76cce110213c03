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


MEASURED = splits.Facts((8, 8, 2), 3, (76.0, 120.0), (94.0, 60.0))


@pytest.mark.parametrize(
  ('mean', 'std', 'expected'),
  [
    (None, None, ((76.0, 120.0), (94.0, 60.0))),
    (0, 255, ((0, 0), (255, 255))),
    (0, 1, ((0, 0), (1, 1))),  # the pixels as they are
    ((103.939, 116.779), 1.0, ((103.939, 116.779), (1, 1))),  # as Caffe's networks
    (127.5, None, ((127.5, 127.5), (94.0, 60.0))),
    (np.float32([80, 90]), jax.numpy.array([70.0, 71.0]), ((80, 90), (70, 71))),
  ],
)
def test_the_normalisation_of_a_network(mean, std, expected):
  facts = pretrained.normalised_by(MEASURED, mean, std)
  assert (facts.mean, facts.std) == expected and facts.image_shape == (8, 8, 2)


@pytest.mark.parametrize(
  ('mean', 'std', 'message'),
  [
    (
      0.3,
      0.37,
      '^mean=0.3,0.3, std=0.37,0.37: expected the units of the pixels, from 0 to 255, as mean=76,120, std=94,60 of '
      'these images: if they are of pixels from 0 to 1, mean=76.5,76.5, std=94.35,94.35$',
    ),
    ((0.49, 0.48), None, 'mean=0.49,0.48, std=94,60: expected the units'),
    (0.5, 127.5, 'expected the units of the pixels'),
    (127.5, (0.5, 0.5), 'expected the units of the pixels'),
    (0, 1 / 255, 'expected the units of the pixels'),
    (256, 60, '^mean=256: expected one number, or 2, one for each channel, from 0 to 255, in the units of the pixels$'),
    (-1, 60, '^mean=-1: expected one number'),
    (76, 65025, '^std=65025: expected one number, or 2, one for each channel, above 0 and at most 255, in the units'),
    (76, 0, '^std=0: expected one number'),
    (76, (60, -60), r'^std=\(60, -60\): expected one number'),
    ((76, float('nan')), 60, r'^mean=\(76, nan\): expected one number'),
    (76, float('inf'), '^std=inf: expected'),
    ((1, 2, 3), 60, r'^mean=\(1, 2, 3\): expected one number, or 2, one'),
    ((), 60, r'^mean=\(\): expected'),
    ('grey', 60, "^mean='grey': expected"),
    ({'red': 3}, 60, "^mean={'red': 3}: expected"),
  ],
)
def test_a_normalisation_that_cannot_be_of_the_pixels(mean, std, message):
  with pytest.raises(UserError, match=message):
    pretrained.normalised_by(MEASURED, mean, std)


def test_pixels_of_few_values_may_have_a_small_normalisation():
  masks = splits.Facts((8, 8, 1), 3, (0.5,), (0.5,))
  assert pretrained.normalised_by(masks, 0.5, 0.5) == masks


def test_variables_that_are_not_the_networks(config, network, tmp_path):
  facts, variables, _ = network
  for spoil, message in [
    (lambda each: each['params'].pop('fc'), r"\['params'\]\['fc'\]\['bias'\] is missing"),
    (lambda each: each.pop('batch_stats'), r"\['batch_stats'\]\['bn'\]\['mean'\] is missing"),
    (lambda each: each['params'].update(more=np.zeros(2)), r"\['params'\]\['more'\] is not in it"),
    (lambda each: each['params']['fc'].update(bias=np.zeros(4)), r'has the shape \(4,\): expected \(3,\)'),
    (lambda each: each['params']['fc'].update(bias=np.full(3, np.nan, np.float32)), 'fc.*is not finite'),
    (lambda each: each['batch_stats']['bn'].update(var=np.full(64, np.inf)), r"\['bn'\]\['var'\] is not finite"),
    (
      lambda each: each['batch_stats']['bn'].update(var=np.full(64, -0.25)),
      r"\['bn'\]\['var'\] has a negative number, -0.25: expected variances, of 0 and more$",
    ),
  ]:
    spoiled = jax.tree.map(lambda leaf: leaf, variables)
    spoil(spoiled)
    with pytest.raises(UserError, match=message):
      pretrained.write_network(tmp_path / 'given', config, facts, spoiled)
    assert not list(tmp_path.glob('given/*.json*'))
