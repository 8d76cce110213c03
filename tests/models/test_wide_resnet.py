"""The networks against a reference in plain NumPy and float64, and against the paper's counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moonshine_jax import paper
from moonshine_jax.models import wide_resnet
from moonshine_jax.models.wide_resnet import Architecture, WideResNet
from moonshine_jax.ops.platforms import lax_only
from tests.helpers.numpy_layers import batch_norm, convolution, random_variables

# For each notation its convolutions as (strided?, groups of the channels c it sees, dilation), written out by hand.
REFERENCE_BLOCKS = {
  'S': [(True, lambda c: 1, 1), (False, lambda c: 1, 1)],
  'S-2x2': [(True, lambda c: 1, 2), (False, lambda c: 1, 2)],
  'G(4)': [(True, lambda c: 4, 1), (False, lambda c: 1, 1), (False, lambda c: 4, 1), (False, lambda c: 1, 1)],
  'G(N/8)': [
    (True, lambda c: c // 8, 1),
    (False, lambda c: 1, 1),
    (False, lambda c: c // 8, 1),
    (False, lambda c: 1, 1),
  ],
  'G(N)': [(True, lambda c: c, 1), (False, lambda c: 1, 1), (False, lambda c: c, 1), (False, lambda c: 1, 1)],
  'B(2)': [(False, lambda c: 1, 1), (True, lambda c: 1, 1), (False, lambda c: 1, 1)],
  'BG(2,M/4)': [(False, lambda c: 1, 1), (True, lambda c: c // 4, 1), (False, lambda c: 1, 1)],
}


def reference_network(variables, images, notations, train):
  """WRN-10-k: one block a group, of the given notations."""
  params, stats = variables['params'], variables['batch_stats']
  x = convolution(images, params['conv1']['kernel'])
  activations = []
  for group, notation in enumerate(notations):
    name, stride = f'conv{group + 2}_block1', 1 if group == 0 else 2
    branch = np.maximum(batch_norm(x, params[name]['bn1'], stats[name]['bn1'], train), 0)
    shortcut = x
    if 'shortcut' in params[name]:
      shortcut = convolution(branch, params[name]['shortcut']['kernel'], stride)
    for i, (strided, groups, dilation) in enumerate(REFERENCE_BLOCKS[notation], start=1):
      if i > 1:
        branch = np.maximum(batch_norm(branch, params[name][f'bn{i}'], stats[name][f'bn{i}'], train), 0)
      branch = convolution(
        branch, params[name][f'conv{i}']['kernel'], stride if strided else 1, groups(branch.shape[-1]), dilation
      )
    x = shortcut + branch
    activations.append(x)
  x = np.maximum(batch_norm(x, params['bn'], stats['bn'], train), 0).mean((1, 2))
  return x @ params['fc']['kernel'] + params['fc']['bias'], activations


@pytest.mark.parametrize(
  'notations',
  [('S', 'S', 'S'), ('S-2x2', 'S-2x2', 'S-2x2'), ('G(4)', 'G(N/8)', 'G(N)'), ('B(2)', 'BG(2,M/4)', 'B(2)')],
  ids=str,
)
@pytest.mark.parametrize('train', [False, True])
def test_forward_pass_equals_the_numpy_reference(notations, train):
  model = WideResNet(10, 1, notations, num_classes=7)
  images = np.random.default_rng(1).normal(size=(3, 10, 8, 3))
  variables = random_variables(model, images.shape, seed=2)
  expected_logits, expected_activations = reference_network(variables, images, notations, train)
  variables32, images32 = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (variables, images))
  if train:
    (logits, activations), _ = model.apply(variables32, images32, train=True, mutable=['batch_stats'])
  else:
    logits, activations = model.apply(variables32, images32)
  np.testing.assert_allclose(logits, expected_logits, rtol=1e-5, atol=1e-5)
  assert len(activations) == 3
  for activation, expected in zip(activations, expected_activations, strict=True):
    np.testing.assert_allclose(activation, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_running_statistics_move_a_tenth_of_the_way():
  model = WideResNet(10, 1, 'S', num_classes=7)
  images = np.random.default_rng(1).normal(size=(3, 8, 8, 3)).astype(np.float32)
  variables = random_variables(model, images.shape, seed=2)
  stem = convolution(images, variables['params']['conv1']['kernel'])
  _, updates = model.apply(variables, images, train=True, mutable=['batch_stats'])
  before, after = (tree['conv2_block1']['bn1'] for tree in (variables['batch_stats'], updates['batch_stats']))
  np.testing.assert_allclose(after['mean'], 0.9 * before['mean'] + 0.1 * stem.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(after['var'], 0.9 * before['var'] + 0.1 * stem.var((0, 1, 2)), rtol=1e-4, atol=1e-5)


def count_parameters(row, num_classes):
  model = WideResNet(row.depth, row.width, row.block, num_classes)
  with lax_only():  # traced in half the time
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
  return sum(leaf.size for leaf in jax.tree.leaves(variables))


def printed_parameters(row):
  return paper.MISPRINTED_PARAMETERS.get((row.block, row.parameters), row.parameters)


def test_parameters_of_every_network_of_the_paper():
  """Those of Table 4 have 90 classes more, each of a weight for every channel and a bias."""
  assert len(paper.TABLE_3) == 26
  for row, of_100_classes in zip(paper.TABLE_3, paper.TABLE_4, strict=True):
    assert row[:3] == of_100_classes[:3]
    counted = count_parameters(row, 10)
    assert counted == printed_parameters(row), row
    assert counted + 90 * (64 * row.width + 1) == printed_parameters(of_100_classes), row
  assert count_parameters(of_100_classes, 100) == printed_parameters(of_100_classes)


def test_initial_values_are_those_of_the_released_code():
  params = WideResNet(16, 2, 'G(4)', 10).lazy_init(jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))[
    'params'
  ]
  block = params['conv4_block2']
  for name, expected in [('conv1', np.sqrt(2 / (9 * 128))), ('conv2', np.sqrt(2 / 128))]:  # groups not divided out
    np.testing.assert_allclose(block[name]['kernel'].std(), expected, rtol=0.05)
    assert np.abs(block[name]['kernel']).max() > 2.5 * expected  # a normal distribution that is not truncated
  assert (block['bn1']['scale'] == 1).all() and (block['bn1']['bias'] == 0).all()
  bound = 1 / np.sqrt(128)
  assert 0.97 * bound < np.abs(params['fc']['kernel']).max() <= bound
  np.testing.assert_allclose(params['fc']['kernel'].std(), bound / np.sqrt(3), rtol=0.05)
  assert (params['fc']['bias'] == 0).all()


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters_statistics_and_logits():
  model, exact_model = (WideResNet(10, 1, 'S,G(N/8),S', 10, dtype=dtype) for dtype in (jnp.bfloat16, jnp.float32))
  images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 8, 3)), jnp.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  variables = jax.tree.map(jnp.float32, random_variables(model, images.shape, seed=2))

  def train(model):
    return jax.jit(lambda *args: model.apply(*args, train=True, mutable=['batch_stats']))(variables, images)

  (logits, activations), updates = train(model)
  assert {x.dtype for x in jax.tree.leaves((shapes, updates, logits))} == {jnp.dtype('float32')}
  assert {x.dtype for x in activations} == {jnp.dtype('bfloat16')}
  exact, _ = train(exact_model)
  np.testing.assert_allclose(logits, exact[0], atol=0.1)


def test_blocks_may_be_mixed_by_group_and_by_block():
  assert [[str(b) for b in group] for group in wide_resnet.group_blocks(16, 'S,G(2),BG(2,M/8)')] == [
    ['S', 'S'],
    ['G(2)', 'G(2)'],
    ['BG(2,M/8)', 'BG(2,M/8)'],
  ]
  assert [[str(b) for b in group] for group in wide_resnet.group_blocks(16, ['S', 'B(2)'] * 3)] == [['S', 'B(2)']] * 3
  with pytest.raises(ValueError, match='2 blocks: expected 1, 3 .* or 6'):
    wide_resnet.group_blocks(16, 'S,G(2)')


@pytest.mark.parametrize(
  ('depth', 'nearest'), [(0, '10 and 16'), (4, '10 and 16'), (41, '40 and 46'), (-7, '10 and 16')]
)
def test_depths_that_are_none(depth, nearest):
  with pytest.raises(ValueError, match=nearest):
    wide_resnet.blocks_per_group(depth)


def test_check_finds_a_block_that_does_not_fit_the_stem():
  wide_resnet.check_wide_resnet(10, 2, 'G(16)')
  with pytest.raises(ValueError, match='32 groups do not divide the 16 channels'):
    wide_resnet.check_wide_resnet(10, 2, 'G(32)')


@pytest.mark.parametrize(
  'name, expected', [('S', (40, 2, 'S')), ('BG(2,M/8)', (40, 2, 'BG(2,M/8)')), ('WRN-16-1 S-2x2', (16, 1, 'S-2x2'))]
)
def test_parses_what_it_prints(name, expected):
  architecture = Architecture.parse(name)
  assert architecture == expected
  assert Architecture.parse(str(architecture)) == architecture


@pytest.mark.parametrize('name', ['', 'T', 'WRN-41-2 S', 'WRN-16 S', 'WRN-16-0 S', 'G(3)'])
def test_refuses_what_is_no_network(name):
  with pytest.raises(ValueError):
    Architecture.parse(name)
