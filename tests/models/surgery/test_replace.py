"""Cheap convolutions in any network, against hand-written cheap networks, the paper's, and sparse kernels."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import moonshine_jax
from moonshine_jax.cost import counting
from moonshine_jax.errors import UserError
from moonshine_jax.models.wide_resnet import WideResNet
from tests.helpers.linen_networks import Mixed, Plain, Stubborn, random_variables

IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)


def apply(network, variables, *args, **kwargs):
  """Compiled: op by op takes longer."""
  return jax.jit(lambda variables, images: network.apply(variables, images, *args, **kwargs))(variables, IMAGES)


def assert_close(tree, expected):
  assert jax.tree.structure(tree) == jax.tree.structure(expected)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), tree, expected)


class ByHand(nn.Module):
  """The replacement of `middle` in Plain, written out."""

  block: str

  @nn.compact
  def __call__(self, x, train):
    def bn_relu(x, name):
      return nn.relu(nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, name=name)(x))

    if self.block == 'G(N/2)':
      x = nn.Conv(8, (3, 3), strides=2, feature_group_count=4, use_bias=False, name='grouped')(x)
      return nn.Conv(16, (1, 1), name='pointwise')(bn_relu(x, 'bn'))
    x = bn_relu(nn.Conv(4, (1, 1), use_bias=False, name='contract')(x), 'bn1')
    groups = {'B(4)': 1, 'BG(4,M)': 4}[self.block]
    x = nn.Conv(4, (3, 3), strides=2, feature_group_count=groups, use_bias=False, name='middle')(x)
    return nn.Conv(16, (1, 1), name='expand')(bn_relu(x, 'bn2'))


class PlainByHand(nn.Module):
  block: str

  @nn.compact
  def __call__(self, x, train):
    x = ByHand(self.block, name='middle')(nn.Conv(8, (3, 3), name='stem')(x), train)
    return nn.Dense(3, name='fc')(nn.relu(x).mean((1, 2)))


@pytest.mark.parametrize('block', ['G(N/2)', 'B(4)', 'BG(4,M)'])
def test_a_student_is_the_network_that_one_would_write(block):
  by_hand = PlainByHand(block)
  variables = random_variables(by_hand, IMAGES, True)
  student = moonshine_jax.cheapen(Plain(), block, IMAGES)
  assert jax.tree.map(jnp.shape, random_variables(student, IMAGES)) == jax.tree.map(jnp.shape, variables)
  assert_close(apply(student, variables), apply(by_hand, variables, False))
  assert_close(
    apply(student, variables, mutable=['batch_stats']), apply(by_hand, variables, True, mutable=['batch_stats'])
  )


def test_the_paper_s_network_comes_out_of_its_teacher():
  # A unit of S follows BN and ReLU, and so does what replaces it: WRN with blocks G is made of such units.
  teacher, by_hand = WideResNet(10, 1, 'S', 3), WideResNet(10, 1, 'G(N/8)', 3)
  plan = moonshine_jax.plan(teacher, 'G(N/8)', IMAGES)
  before, after = counting.count_cost(teacher, (8, 8, 3)), counting.count_cost(by_hand, (8, 8, 3))
  assert counting.count_cost(plan.student, (8, 8, 3)) == after
  assert plan.parameters == (before.parameters, after.parameters)
  assert plan.multiply_adds == (before.multiply_adds, after.multiply_adds)
  layers = {layer.path: layer for layer in counting.profile(teacher, (8, 8, 3)).layers}
  assert {row.layer.path: (row.layer.parameters, row.layer.multiply_adds) for row in plan.layers} == {
    path: (layer.parameters, layer.multiply_adds) for path, layer in layers.items() if 'conv ' in layer.kind
  }
  assert [row.reason for row in plan.layers if not row.notation] == ['it is the first convolution'] + 2 * ['it is 1x1']

  def renamed(tree):  # from the student's names to those of blocks G
    names = {
      'bn1': 'bn1',
      'conv1/grouped': 'conv1',
      'conv1/bn': 'bn2',
      'conv1/pointwise': 'conv2',
      'bn2': 'bn3',
      'conv2/grouped': 'conv3',
      'conv2/bn': 'bn4',
      'conv2/pointwise': 'conv4',
      'shortcut': 'shortcut',
    }
    result = {}
    for module, children in tree.items():
      flat = {
        f'{name}/{part}' if name.startswith('conv') and '_' in module else name: leaves
        for name, parts in children.items()
        for part, leaves in (parts.items() if name.startswith('conv') and '_' in module else [('', parts)])
      }
      result[module] = {names.get(name, name): leaves for name, leaves in flat.items()}
    return result

  variables = random_variables(plan.student, IMAGES)
  in_training = apply(plan.student, variables, train=True, mutable=['batch_stats'])
  expected = apply(
    by_hand, {name: renamed(tree) for name, tree in variables.items()}, train=True, mutable=['batch_stats']
  )
  assert_close((in_training[0], renamed(in_training[1]['batch_stats'])), (expected[0], expected[1]['batch_stats']))


@pytest.mark.parametrize(
  'attributes',
  [
    {'kernel_size': (3, 3), 'strides': 2},
    {'kernel_size': (5, 1), 'padding': 2},
    {'kernel_size': (4, 3), 'padding': 'VALID', 'kernel_dilation': (1, 2)},
    {'kernel_size': (3, 2), 'padding': 'CIRCULAR', 'feature_group_count': 3},
    {'kernel_size': (3, 3), 'input_dilation': (1, 2), 'padding': ((0, 2), (1, 0))},
  ],
)
def test_two_taps_are_a_kernel_without_its_middle(attributes):
  teacher = nn.Sequential([nn.Conv(6, **attributes)])
  student = moonshine_jax.cheapen(teacher, lambda layer: 'S-2x2', IMAGES)
  variables = random_variables(student, IMAGES)
  kernel = variables['params']['layers_0']['kernel']
  assert kernel.shape[:2] == tuple(min(k, 2) for k in attributes['kernel_size'])
  sparse = np.zeros((*attributes['kernel_size'], *kernel.shape[2:]), np.float32)
  rows, columns = (np.array([0, k - 1])[:k] for k in attributes['kernel_size'])
  sparse[np.ix_(rows, columns)] = kernel
  params = {'layers_0': {'kernel': sparse, 'bias': variables['params']['layers_0']['bias']}}
  assert_close(apply(student, variables), apply(teacher, {'params': params}))


def test_one_axis():
  series = IMAGES.reshape(4, 32, 6)
  teacher = nn.Sequential([nn.Conv(4, 3), nn.Conv(8, 5, padding='CAUSAL', use_bias=False), nn.Dense(2)])
  params = random_variables(moonshine_jax.cheapen(teacher, 'G(2)', series), series)['params']['layers_1']
  assert jax.tree.map(jnp.shape, params) == {
    'grouped': {'kernel': (5, 2, 4)},
    'bn': {'scale': (4,), 'bias': (4,)},
    'pointwise': {'kernel': (1, 4, 8)},
  }


@pytest.fixture(scope='module')
def mixed():
  random_variables(Mixed(), IMAGES, training=True)  # so that nn.jit has what the student must not take from it
  return moonshine_jax.plan(Mixed(), lambda layer: None if layer.stays else 'B(4)', IMAGES, training=True)


def test_shared_scanned_recomputed_and_listed_layers(mixed):
  rows = {row.layer.path: row for row in mixed.layers}
  assert [path for path, row in rows.items() if not row.notation] == ['stem/Conv_0']
  (scanned,) = (path for path in rows if path.startswith('stack'))
  assert list(rows) == [
    'stem/Conv_0',
    'shared/Conv_0',
    'layers_0/Conv_0',
    'layers_1',
    'by_name_wide/Conv_0',
    scanned,
    'compiled/Conv_0',
  ]
  # 1x1, BN, kernel, BN, 1x1, bias; and output positions times weights, the first 1x1 before the stride.
  by_hand = {
    'shared/Conv_0': (8 * 2 + 8 + 9 * 2 * 2 + 8 + 2 * 8, 2 * 64 * (8 * 2 + 9 * 2 * 2 + 2 * 8)),
    'layers_0/Conv_0': (8 * 4 + 16 + 15 * 4 * 4 + 16 + 4 * 16, 64 * 8 * 4 + 32 * (15 * 4 * 4 + 4 * 16)),
    'layers_1': (16 * 4 + 16 + 7 * 4 * 4 + 16 + 4 * 16 + 16, 32 * (16 * 4 + 7 * 4 * 4 + 4 * 16)),
    'by_name_wide/Conv_0': (16 * 4 + 16 + 15 * 4 * 4 + 16 + 4 * 16, 32 * 16 * 4 + 16 * (15 * 4 * 4 + 4 * 16)),
    scanned: (3 * (16 * 4 + 16 + 9 * 4 * 4 + 16 + 4 * 16), 3 * 16 * (16 * 4 + 9 * 4 * 4 + 4 * 16)),
    'compiled/Conv_0': (16 * 4 + 16 + 9 * 4 * 4 + 16 + 4 * 16, 16 * (16 * 4 + 9 * 4 * 4 + 4 * 16)),
  }
  assert {path: (rows[path].parameters, rows[path].multiply_adds) for path in by_hand} == by_hand
  assert rows[scanned].layer.multiply_adds == 3 * 16 * 9 * 16 * 16
  assert str(rows['layers_0/Conv_0'].layer) == 'convolution 3x5, 8 to 16, stride 2x1'
  assert mixed.parameters[1] - mixed.parameters[0] == sum(row.parameters - row.layer.parameters for row in mixed.layers)
  lines = str(mixed).splitlines()
  assert len(lines) == 1 + len(rows) + 1
  assert lines[-1].split() == ['whole', 'network', *(f'{n:,}' for n in (*mixed.parameters, *mixed.multiply_adds))]


def test_a_student_trains(mixed):
  variables = random_variables(mixed.student, IMAGES)

  @jax.jit
  def step(variables):
    def loss_fn(params):
      outputs, updates = mixed.student.apply(
        {**variables, 'params': params}, IMAGES, training=True, mutable=['batch_stats']
      )
      return jnp.square(outputs['logits'] - 1).mean(), updates['batch_stats']

    (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(variables['params'])
    params = jax.tree.map(lambda x, dx: x - 1e-4 * dx, variables['params'], grads)
    return {'params': params, 'batch_stats': batch_stats}, loss, grads

  changed, first, grads = step(variables)
  assert all(np.any(grad) for grad in jax.tree.leaves(grads))
  before, after = variables['batch_stats'], changed['batch_stats']
  assert all(jax.tree.leaves(jax.tree.map(lambda x, y: np.any(x != y), before, after)))
  assert step(changed)[1] < first


def test_gradient_by_finite_differences(smooth):
  student = moonshine_jax.cheapen(Plain(), 'BG(2,M/2)', IMAGES)
  variables = random_variables(student, IMAGES)

  @jax.jit
  def loss(params):
    return student.apply({**variables, 'params': params}, IMAGES, mutable=['batch_stats'])[0].sum()

  check_grads(loss, (variables['params'],), order=1, modes=['rev'], atol=1e-2, rtol=1e-2)


def test_what_stays_is_told_with_its_reason():
  rows = {row.layer.path: row for row in moonshine_jax.plan(Stubborn(), 'G(8)', IMAGES).layers}
  (scanned,) = (path for path in rows if path.startswith('stack'))
  (outside,) = (path for path in rows if rows[path].layer.kind == 'convolution outside of linen')
  assert {path: row.notation or row.reason for path, row in rows.items()} == {
    'stem': '8 groups do not divide the 3 channels that they split',
    'twelve': 'G(8)',
    'pointwise': '8 groups do not divide the 12 channels that they split',
    'grouped': 'it is in 2 groups',
    'masked': 'its weights are masked',
    'local': 'it is a local convolution',
    'up': 'it is a transposed convolution',
    scanned: "the transform around it keeps no 'batch_stats' in training",
    outside: 'it is a convolution outside of linen',
    'open': 'G(8)',
    'last': 'it is the last layer',
  }
  assert rows[outside].layer.multiply_adds == 8 * 8 * 16 * 2 * 2 * 16
  assert rows['local'].layer.multiply_adds == 8 * 8 * 4 * 2 * 2 * 16
  assert rows['up'].layer.multiply_adds == 8 * 8 * 4 * 3 * 3 * 16
  # Without BN, a scanned layer can be replaced; a function may take the first and the last.
  rows = {row.layer.path: row for row in moonshine_jax.plan(Stubborn(), lambda layer: 'S-2x2', IMAGES).layers}
  assert [rows[path].notation for path in ('stem', 'grouped', scanned, 'last')] == 4 * ['S-2x2']
  assert rows['pointwise'].reason == 'no axis has more than 2 taps'


def test_a_notation_for_each_convolution_that_may_be_replaced():
  network = nn.Sequential([nn.Conv(features, (3, 3)) for features in (8, 16, 12, 8)] + [jnp.ravel, nn.Dense(3)])
  student = moonshine_jax.cheapen(network, 'S,B(2),G(N/4)', IMAGES)
  assert student.replacements == (('layers_2', 'B(2)'), ('layers_3', 'G(N/4)'))
  with pytest.raises(
    UserError, match=r'^layers_3: G\(8\) cannot take its place: 8 groups do not divide the 12 channels'
  ):
    moonshine_jax.cheapen(network, 'S,S,G(8)', IMAGES)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, np.float64])
def test_inherited_values_keep_the_student_s_dtype(dtype):
  boxed = nn.with_partitioning(nn.initializers.lecun_normal(), (None,) * 4)
  teacher = nn.Sequential([nn.Conv(8, (3, 3), kernel_init=boxed), nn.Conv(16, (3, 3)), nn.Dense(2)])
  variables = random_variables(moonshine_jax.cheapen(teacher, 'G(2)', IMAGES), IMAGES)
  taught = jax.tree.map(lambda leaf: -leaf.astype(dtype), random_variables(teacher, IMAGES))
  inherited = moonshine_jax.inherit(variables, nn.meta.unbox(taught))  # the student's stay boxed
  assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), inherited) == jax.tree.map(
    lambda leaf: (leaf.shape, np.float32), variables
  )
  for name in ('layers_0', 'layers_2'):
    jax.tree.map(np.testing.assert_array_equal, inherited['params'][name], taught['params'][name])
  assert_close(inherited['params']['layers_1'], variables['params']['layers_1'])


@pytest.mark.parametrize(
  ('rule', 'message'),
  [
    ('G(5)', r'nothing in it is replaced: stem: 5 groups do not divide the 3 channels.*; middle: 5 groups do not div'),
    ('S', 'nothing in it is replaced: stem: S is what it is'),
    ('G(x)', r"^'G\(x\)' is not a block"),
    (lambda layer: None, 'middle: the rule says so'),
    ('S,G(2),G(2)', '^3 notations: expected 1, or 1: middle'),
    ('G(2),X', "^'X' is not a block"),
    (lambda layer: 'X', "^stem: 'X' is not a block"),
  ],
)
def test_rules_that_do_not_fit(rule, message):
  with pytest.raises(UserError, match=message):
    moonshine_jax.cheapen(Plain(), rule, IMAGES)


def test_no_convolution():
  with pytest.raises(UserError, match='no convolution in it'):
    moonshine_jax.cheapen(nn.Dense(2), 'G(2)', IMAGES)


def test_a_network_of_another_project():
  jax_resnet = pytest.importorskip('jax_resnet')
  image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  plan = moonshine_jax.plan(jax_resnet.ResNet18(n_classes=1000), 'G(N/8)', image)
  # As in torchvision, and 9,600 running statistics; its multiply-adds are published as 1.81 G.
  assert plan.parameters[0] == 11_689_512 + 9_600 and round(plan.multiply_adds[0] / 1e9, 2) == 1.81
  assert sum(row.notation is not None for row in plan.layers) == 16  # of 20: neither the stem nor three shortcuts
  assert plan.parameters[1] < 0.25 * plan.parameters[0] and plan.multiply_adds[1] < 0.3 * plan.multiply_adds[0]
