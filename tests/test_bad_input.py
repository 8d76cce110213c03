"""Whatever a config or a notation holds, it is refused in a clear line or it builds a network that runs.

Drawn by Hypothesis, the same inputs each time. FUZZ=100 draws a hundred times as many, and new ones.
"""

import os
import re

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from moonshine_jax import config as config_lib
from moonshine_jax import fields
from moonshine_jax.configs import cifar10
from moonshine_jax.cost import counting
from moonshine_jax.errors import UserError
from moonshine_jax.models import wide_resnet
from moonshine_jax.models.blocks import Block
from moonshine_jax.models.factory import create_model
from moonshine_jax.training import optimizer

FUZZ = int(os.environ.get('FUZZ', '1'))


def examples(number):
  return hypothesis.settings(
    max_examples=number * FUZZ,
    derandomize=FUZZ == 1,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
  )


# Notations: whole ones, ones with odd numbers, and what is almost one.
NUMBERS = st.one_of(
  st.sampled_from(
    [
      '1',
      '2',
      '4',
      '8',
      '16',
      '3',
      'N',
      'N/8',
      'M',
      'M/4',
      'N/3',
      '0',
      '-1',
      '',
      '1e3',
      '٣',
      ' 2 ',
      '02',
      '9' * 9,
      '9' * 10,
      '9' * 5000,
      'N/' + '9' * 9,
      'N/N',
    ]
  ),
  st.integers(-2, 10**20).map(str),
)
NOTATIONS = st.one_of(
  st.sampled_from(['S', 'S-2x2', 'G(N)', 'G(N/8)', 'B(2)', 'BG(2,M/8)', 'BG(4,2)']),
  st.builds('{}({})'.format, st.sampled_from(['G', 'B', 'S', 'X']), NUMBERS),
  st.builds('BG({},{})'.format, NUMBERS, NUMBERS),
  st.text('SGBMN()/,0123456789-x ٣²\x00\n', max_size=12),
  st.text(max_size=5),
)
BLOCKS = st.one_of(
  NOTATIONS,
  st.lists(NOTATIONS, min_size=2, max_size=4).map(','.join),
  NOTATIONS.map(lambda each: ','.join([each] * 3)),
  st.builds(lambda text, times: text * times, st.sampled_from(['S,', '(', ',', 'G(', '(,']), st.just(10**5)),
)
DEPTHS = st.one_of(st.sampled_from([10, 16, 40, 1204, 1210, 41, 4, 0, 10**6, 6 * 10**5 + 4]), st.integers())
WIDTHS = st.one_of(st.sampled_from([1, 2, 10, 1000, 0, 10**4, 10**9]), st.integers())
VALUES = st.one_of(
  st.integers(),
  st.integers(-(10**40), 10**40),
  st.sampled_from([0, 1, 10**9, 10**12, 2**31, 2**32, 2**63, 10**5000]),
  st.floats(),
  st.sampled_from([1e-300, 1e300, 0.0, -0.0, 1.0]),
  st.text(max_size=8),
  st.just('x' * 10**5),
  st.booleans(),
  st.none(),
  st.lists(st.one_of(st.integers(), st.text(max_size=3)), max_size=3).map(tuple),
  st.lists(st.integers(), max_size=2),
)
WORDS = st.one_of(
  st.builds(
    '{}={}'.format,
    st.sampled_from(list(config_lib.STUDENT_FIELDS)),
    st.one_of(BLOCKS, DEPTHS.map(str), st.floats().map(str), NUMBERS),
  ),
  st.sampled_from(['alpha=0', 'seed=1', 'block=G(N/8)', 'block', '=', 'seed=1_0']),
  st.text(max_size=6),
)
STUDENTS = st.lists(st.lists(WORDS, max_size=3).map(' '.join), max_size=3).map(tuple)


def is_clear(error):
  """One line once printed, short enough to be read, that says what would be right."""
  text = ' '.join(str(error).split())
  assert len(text) < 5000
  assert re.search('expected|do not divide|does not divide|nearest|there twice|invalid literal|could not convert', text)
  text.encode('utf-8', 'backslashreplace')


def shapes_of(model, image_shape):
  """The shapes of what the network returns, computing nothing."""
  image = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
  return jax.eval_shape(lambda key, x: model.init_with_output(key, x)[0], jax.random.key(0), image)


def assert_builds(config, image_shape=(8, 8, 3)):
  logits, activations = shapes_of(create_model(config.model, 10), image_shape)
  assert logits.shape == (2, 10)
  assert [each.shape[-1] for each in activations] == list(wide_resnet.group_features(config.model.width))


@examples(400)
@hypothesis.given(BLOCKS)
def test_a_notation_parses_or_is_refused(text):
  try:
    blocks = Block.parse_list(text)
  except ValueError as error:
    is_clear(error)
    return
  assert Block.parse_list(','.join(map(str, blocks))) == blocks


@examples(200)
@hypothesis.given(DEPTHS, WIDTHS, BLOCKS)
def test_a_network_is_small_enough_or_refused(depth, width, block):
  try:
    wide_resnet.check_wide_resnet(depth, width, block)
  except ValueError as error:
    is_clear(error)
    return
  assert depth <= wide_resnet.MAX_DEPTH and width <= wide_resnet.MAX_WIDTH


@examples(20)
@hypothesis.given(st.sampled_from([10, 16]), st.sampled_from([1, 2, 3]), BLOCKS, st.tuples(*[st.integers(1, 9)] * 2))
def test_a_network_that_is_not_refused_has_its_shapes(depth, width, block, size):
  config = cifar10.get_config()
  config.model.update(depth=depth, width=width, block=block)
  try:
    config_lib.check(config)
  except UserError as error:
    is_clear(error)
    hypothesis.reject()
  assert_builds(config, (*size, 1))


@examples(300)
@hypothesis.given(st.dictionaries(st.sampled_from(list(fields.FIELDS)), VALUES, min_size=1, max_size=4))
def test_a_config_runs_or_is_refused(values):
  config = cifar10.get_config()
  with config.ignore_type():
    try:
      config.update_from_flattened_dict(values)
    except (OverflowError, TypeError, ValueError):  # raised by ml_collections as it converts to the field's type
      hypothesis.reject()
  try:
    config_lib.check(config)
    config_lib.students(config)
  except UserError as error:
    assert str(error).startswith('config.')
    is_clear(error)
    return
  for seed in (config.seed, config.model.seed):
    assert int(jax.random.key_data(jax.random.key(seed))[1]) == seed  # no other seed's
  rate = optimizer.create_learning_rate_fn(config, 1)(0)
  assert np.isfinite(rate) and rate >= 0
  for name in ('beta', 'alpha', 'temperature'):
    assert np.isfinite(np.float32(config.distill[name]) ** 2)
  assert np.float32(config.distill.temperature) ** 2 > 0
  assert config_lib.flatten(config_lib.from_json(config_lib.to_json(config))) == config_lib.flatten(config)


@examples(100)
@hypothesis.given(STUDENTS)
def test_every_student_is_a_config_or_is_refused(students):
  config = cifar10.get_config()
  config.distill.students = students
  try:
    student_configs = config_lib.students(config)
  except UserError as error:
    assert str(error).startswith('config.distill.students: ')
    is_clear(error)
    return
  assert len(student_configs) == max(len(students), 1)
  for name, student in student_configs.items():
    assert not students or re.fullmatch('[A-Za-z0-9.-]{1,255}', name)
    config_lib.check(student)


@pytest.mark.parametrize(('block', 'size'), [('S-2x2', (1, 1)), ('G(16),B(32),BG(64,1)', (1, 3))])
def test_images_of_a_pixel_are_enough(block, size):
  model = wide_resnet.WideResNet(10, 1, block, 7)
  images = np.ones((2, *size, 1), np.float32)
  variables = jax.tree.map(
    lambda leaf: np.full(leaf.shape, 0.1, leaf.dtype), jax.eval_shape(model.init, jax.random.key(0), images)
  )
  logits, _ = jax.jit(model.apply)(variables, images)
  assert logits.shape == (2, 7) and jnp.isfinite(logits).all()


@pytest.mark.parametrize(('depth', 'width', 'block'), [(10, 2, 'S'), (16, 1, 'S,G(N/8),BG(2,M/8)'), (22, 3, 'G(4)')])
def test_the_parameters_that_check_counts_are_the_networks(depth, width, block, monkeypatch):
  """Those of the convolutions: the whole network's but for BN, the stem and the fully connected layer."""
  counted = 0

  def add(module, inputs, outputs):
    nonlocal counted
    if module.name != 'conv1' or module.path != ('conv1',):
      counted += module.get_variable('params', 'kernel').size if type(module).__name__ == 'Conv' else 0

  counting.visit_layers(wide_resnet.WideResNet(depth, width, block, 10), (8, 8, 3), add)
  monkeypatch.setattr(wide_resnet, 'MAX_PARAMETERS', counted)
  wide_resnet.check_wide_resnet(depth, width, block)
  monkeypatch.setattr(wide_resnet, 'MAX_PARAMETERS', counted - 1)
  with pytest.raises(ValueError, match=f'has {counted:,} parameters in its convolutions: expected at most '):
    wide_resnet.check_wide_resnet(depth, width, block)
