import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moonshine_jax.errors import UserError
from moonshine_jax.models.resnet import ResNet
from moonshine_jax.models.surgery import places as places_lib
from moonshine_jax.models.wide_resnet import WideResNet
from tests.helpers.linen_networks import Mixed, random_variables
from tests.helpers.modules import make_user_model

SHAPE = (8, 8, 3)
TEACHER = WideResNet(10, 1, 'S', 3)
MIXED = WideResNet(10, 1, ('G(N/8)', 'S', 'B(2)'), 3)


@pytest.fixture(scope='module')
def images():
  return np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)


@pytest.fixture(scope='module')
def teacher_variables():
  """Of the teacher, its statistics and BN parameters other than the initial ones."""
  return random_variables(TEACHER, jnp.zeros((1, *SHAPE)))


def other_variables(network, images):
  """Of a network, none of them those of the teacher."""
  return jax.tree.map(lambda x: x + 1, random_variables(network, images))


def test_the_places_are_the_blocks_that_differ():
  places = places_lib.find_places(MIXED, TEACHER, SHAPE)
  assert [(place.path, str(place.module.block)) for place in places] == [
    ('conv2_block1', 'G(N/8)'),
    ('conv4_block1', 'B(2)'),
  ]
  same = TEACHER.clone(axis_name='batch', dtype=jnp.bfloat16)
  assert places_lib.find_places(TEACHER, TEACHER, SHAPE) == places_lib.find_places(same, TEACHER, SHAPE) == ()


@pytest.mark.parametrize(
  ('student', 'message'),
  [
    (WideResNet(10, 2, 'G(N/8)', 3), r'^conv2_block1 of the student has the shapes \(\(8, 8, 16\), \(8, 8, 32\)\)'),
    (WideResNet(16, 1, 'S', 3), '^conv2_block2 of the student has .*there is none: expected a student of its arch'),
  ],
)
def test_a_student_of_another_architecture_is_refused(student, message):
  with pytest.raises(UserError, match=message):
    places_lib.find_places(student, TEACHER, SHAPE)


def test_a_student_of_fewer_blocks_is_refused():
  with pytest.raises(UserError, match='^the student has no conv2_block2: expected a student of its architecture with'):
    places_lib.find_places(WideResNet(10, 1, 'B(2)', 3), WideResNet(16, 1, 'S', 3), SHAPE)


def test_what_is_in_a_scan_does_not_come_out():
  network, images = Mixed(), jnp.zeros((1, *SHAPE))
  variables = jax.eval_shape(network.init, jax.random.key(0), images)
  paths = {'/'.join(key.key for key in keys[1:-1]) for keys, _ in jax.tree.leaves_with_path(variables)}
  (inside,) = (path for path in paths if path.startswith('stack/') and path.endswith('Conv_0'))
  for path, comes_out in (('layers_1', True), (inside, False)):
    tapped = places_lib.tap(lambda *args, train, mutable: network.apply(*args, mutable=mutable), ['stem', path])
    if comes_out:
      assert jax.eval_shape(tapped, variables, images)[path][1].shape == (1, 4, 8, 16)
    else:
      with pytest.raises(UserError, match=f'^{inside}: inside a transform .nn.scan, ....*: expected a rule that keeps'):
        jax.eval_shape(tapped, variables, images)


def test_what_goes_in_and_out_is_what_the_blocks_of_the_teacher_have(images, teacher_variables):
  """Each block of the teacher, alone, makes of what comes in what goes out; and the next block is given that."""
  paths = tuple(f'conv{group}_block1' for group in (2, 3, 4))
  tapped = places_lib.tap(TEACHER.apply, paths)(teacher_variables, images)
  for path, place in zip(paths, places_lib.find_places(WideResNet(10, 1, 'G(1)', 3), TEACHER, SHAPE), strict=True):
    inputs, outputs = tapped[path]
    alone = {name: tree[path] for name, tree in teacher_variables.items()}
    block = place.module.clone(block=type(place.module.block).parse('S'))
    np.testing.assert_allclose(block.apply(alone, inputs, False), outputs, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(tapped['conv3_block1'][0], tapped['conv2_block1'][1])
  np.testing.assert_array_equal(tapped['conv4_block1'][1], TEACHER.apply(teacher_variables, images)[1][2])


def test_a_student_starts_as_its_teacher_outside_of_the_cheap_convolutions(images, teacher_variables):
  places = places_lib.find_places(MIXED, TEACHER, SHAPE)
  fresh = other_variables(MIXED, images)
  started = places_lib.start_from(fresh, teacher_variables, places)
  theirs = dict(jax.tree.leaves_with_path(teacher_variables))
  from_teacher = {
    '/'.join(key.key for key in keys[1:])
    for keys, leaf in jax.tree.leaves_with_path(started)
    if keys in theirs and leaf.shape == theirs[keys].shape and np.array_equal(leaf, theirs[keys])
  }
  blocks = {'/'.join(path.split('/')[:2]) for path in from_teacher}
  assert blocks == {
    *('conv1/kernel', 'bn/mean', 'bn/var', 'bn/scale', 'bn/bias', 'fc/kernel', 'fc/bias'),
    *('conv2_block1/bn1', 'conv4_block1/bn1', 'conv4_block1/shortcut'),
    *(f'conv3_block1/{name}' for name in ('bn1', 'bn2', 'conv1', 'conv2', 'shortcut')),
  }
  others = jax.tree.map(np.array_equal, started['params']['conv2_block1'], fresh['params']['conv2_block1'])
  assert all(jax.tree.leaves({name: same for name, same in others.items() if name != 'bn1'}))


def test_a_student_of_the_same_blocks_starts_as_its_teacher(images, teacher_variables):
  started = places_lib.start_from(other_variables(TEACHER, images), teacher_variables, ())
  assert jax.tree.all(jax.tree.map(np.array_equal, started, teacher_variables))


def test_the_places_of_a_resnet_learn_alone():
  teacher, student = ResNet(18, 'S', 3), ResNet(18, 'S,S,S,G(N/8)', 3)
  places = places_lib.find_places(student, teacher, (32, 32, 3))
  assert [place.path for place in places] == ['layer4_0', 'layer4_1']
  variables = jax.eval_shape(student.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  for place, features in zip(places, (256, 512), strict=True):
    outputs, batch_stats = jax.eval_shape(
      place.run, variables, jnp.zeros((2, 2 if features == 256 else 1, 2, features))
    )
    assert outputs.shape[-1] == 512
    assert jax.tree.structure(batch_stats) == jax.tree.structure(variables['batch_stats'][place.path])


def test_the_places_of_a_users_network_are_its_replaced_convolutions():
  teacher, student = make_user_model('with_norm'), make_user_model('with_norm', 'G(N/8)')
  places = places_lib.find_places(student, teacher, (8, 8, 2))
  images = np.random.default_rng(0).normal(size=(2, 8, 8, 2)).astype(np.float32)
  variables, teacher_variables = (random_variables(model, images, train=False) for model in (student, teacher))
  tapped = places_lib.tap(teacher.apply, [place.path for place in places])(teacher_variables, images)
  assert places
  for place in places:
    inputs, outputs = tapped[place.path]
    learnt, batch_stats = place.run(variables, inputs)
    assert learnt.shape == outputs.shape and set(batch_stats) == {'bn'}
    assert not np.array_equal(batch_stats['bn']['mean'], np.zeros(inputs.shape[-1]))


def test_a_block_swapped_alone_gives_the_network_that_has_it_there(images, teacher_variables):
  """The mixture written out, with its teacher's variables but for a block, against the swap of that block's output."""
  mixed = WideResNet(10, 1, ('S', 'G(N/8)', 'S'), 3)
  (place,) = places_lib.find_places(mixed, TEACHER, SHAPE)
  student = mixed.init(jax.random.key(3), images)
  variables = places_lib.start_from(student, teacher_variables, [place])

  @jax.jit
  def both(teacher_variables, variables, images):
    inputs, outputs = places_lib.tap(TEACHER.apply, [place.path])(teacher_variables, images)[place.path]
    swapped = places_lib.swap(TEACHER.apply, place.path)
    return (
      mixed.apply(variables, images),
      swapped(teacher_variables, images, place.evaluate(variables, inputs)),
      TEACHER.apply(teacher_variables, images),
      swapped(teacher_variables, images, outputs),
    )

  whole, swapped, teacher, itself = both(teacher_variables, variables, images)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), whole, swapped)
  jax.tree.map(np.testing.assert_array_equal, teacher, itself)
  assert not np.allclose(whole[0], teacher[0], rtol=1e-2)


def test_what_a_swapped_block_needs_alone_is_left_out(images, teacher_variables):
  swapped = places_lib.swap(TEACHER.apply, 'conv4_block1')
  gradient = jax.grad(lambda variables: swapped(variables, images, jnp.ones((2, 2, 2, 64)))[0].sum())
  reached = {keys[1].key for keys, leaf in jax.tree.leaves_with_path(gradient(teacher_variables)) if np.any(leaf)}
  assert reached == {'bn', 'fc'}


def test_convolutions_inside_transforms_are_swapped():
  """Under nn.remat and nn.jit values go in by the variables alone; a second path is not taken for the first."""
  teacher = make_user_model('mixed')
  images = jax.random.normal(jax.random.key(0), (2, 8, 8, 2))
  variables = teacher.init(jax.random.key(1), images)
  paths = ['by_name_wide/Conv_0', 'compiled/Conv_0']

  @jax.jit
  def swap_each(variables, images):
    seen = places_lib.tap(teacher.apply, paths)(variables, images)
    swaps = {path: places_lib.swap(teacher.apply, path) for path in paths}
    return teacher.apply(variables, images)[0], [
      [swaps[path](variables, images, outputs)[0] for outputs in (seen[path][1], jnp.zeros_like(seen[path][1]))]
      for path in paths
    ]

  expected, swapped = swap_each(variables, images)
  for itself, other in swapped:
    np.testing.assert_allclose(itself, expected, rtol=1e-5, atol=1e-5)
    assert not np.allclose(other, expected, rtol=1e-2)
