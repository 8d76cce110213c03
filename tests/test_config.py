import ml_collections
import pytest

from moonshine_jax import config as config_lib
from moonshine_jax import fields
from moonshine_jax.configs import (
  cifar10,
  cifar10_forms,
  cifar100,
  cifar100_crd,
  digits,
  digits_forms,
  imagenet,
  table3,
  table3_digits,
  table4,
)
from moonshine_jax.errors import UserError


@pytest.mark.parametrize(
  'module',
  [cifar10, cifar10_forms, cifar100, cifar100_crd, digits, digits_forms, imagenet, table3, table3_digits, table4],
)
def test_the_configs_that_come_along_are_right_and_survive_json(module):
  config = module.get_config()
  config_lib.check(config)
  assert config_lib.flatten(config).keys() == fields.FIELDS.keys()
  assert config_lib.from_json(config_lib.to_json(config)).to_dict() == config.to_dict()
  config_lib.students(config)


def test_the_recipe_is_the_papers():
  config = cifar10.get_config()
  assert (config.batch_size, config.epochs, config.data.pad, config.data.flip) == (128, 200, 4, True)
  assert config.optimizer.to_dict() == {
    'learning_rate': 0.1,
    'momentum': 0.9,
    'weight_decay': 5e-4,
    'decay_factor': 0.2,
    'decay_epochs': (60, 120, 160),
    # What the field does since then is off.
    'decay_bn_and_biases': True,
    'ema': 0.0,
    'nesterov': False,
    'schedule': 'steps',
    'warmup_epochs': 0,
  }
  assert (config.distill.temperature, config.distill.alpha, config.distill.beta) == (4.0, 0.9, 1000.0)
  assert (config.model.depth, config.model.width, config.model.block) == (40, 2, 'S')


def test_images_that_are_cropped_as_they_are_read_are_not_padded():
  config = imagenet.get_config()
  config.data.pad = 4
  with pytest.raises(UserError, match='^config.data.pad=4: expected 0 with config.data.image_size=224'):
    config_lib.check(config)


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('model.block', 'G(3)', r"config.model.block='G\(3\)': block G\(3\): 3 groups do not divide the 16 channels"),
    ('model.block', 'BG(2)', r"config.model.block='BG\(2\)': 'BG\(2\)' is not a block: expected S, S-2x2"),
    ('model.block', 'G(N/3)', r"config.model.block='G\(N/3\)': .*groups of 3 channels do not divide the 16"),
    ('model.block', 'S,S', "config.model.block='S,S': 2 blocks: expected 1, 3"),
    ('model.block', '', "config.model.block='': expected a string that is not empty"),
    ('model.depth', 41, r'config.model.depth=41: a depth is 6n \+ 4 .*40 and 46'),
    ('model.width', 0, 'config.model.width=0: expected an integer of at least 1'),
    ('model.dtype', 'float16', "config.model.dtype='float16': expected one of float32, bfloat16"),
    ('distill.alpha', -0.1, 'config.distill.alpha=-0.1: expected a number of at least 0 and at most'),
    ('distill.alpha', float('nan'), 'config.distill.alpha=nan: expected a number of at least 0'),
    ('distill.alpha', 9.0, 'config.distill.alpha=9.0: expected at most 1 beside config.distill.ce_weight=-1'),
    ('distill.ce_weight', -0.5, 'config.distill.ce_weight=-0.5: expected a number of at least 0 .*, or -1'),
    ('distill.at_form', 'mine.py', r"config.distill.at_form='mine.py': expected one of released, .*, or a function"),
    ('distill.beta', -1.0, 'config.distill.beta=-1.0: expected a number of at least 0'),
    ('distill.temperature', 0.0, 'config.distill.temperature=0.0: expected a number from 0.001 to'),
    ('distill.kd_form', 'printed', "config.distill.kd_form='printed': expected one of released, equation, hinton"),
    ('data.feed', 'tape', "config.data.feed='tape': expected one of resident, stream"),
    ('seed', 2**32, 'config.seed=4294967296: expected an integer of at least 0 and at most 4294967295'),
    ('model.depth', 1210, 'config.model.depth=1210: expected a depth of at most 1204'),
    ('model.width', 100, r"config.model.block='S': WRN-40-100 .* parameters .* at most 1,000,000,000"),
    ('model.block', 'S,' * 5001, r"config.model.block='(S,)+S\.\.\.: 10,002 characters of notation: .* at most 10,000"),
    ('optimizer.decay_epochs', (1, 10**30), 'config.optimizer.decay_epochs=.*: expected increasing .* at most 10{9}'),
    ('data.pad', -1, 'config.data.pad=-1: expected an integer of at least 0'),
    ('data.image_size', 224, "config.data.feed='resident': expected 'stream' with config.data.image_size=224"),
    ('optimizer.learning_rate', float('inf'), 'config.optimizer.learning_rate=inf: expected a number above 0'),
    (
      'optimizer.decay_epochs',
      (3, 2),
      r'config.optimizer.decay_epochs=\(3, 2\): expected increasing positive integers',
    ),
    ('epochs', True, 'config.epochs=True: expected an integer of at least 0'),
  ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(field, value, message):
  config = cifar10.get_config()
  with config.ignore_type():
    config.update_from_flattened_dict({field: value})
  with pytest.raises(UserError, match=f'^{message}'):
    config_lib.check(config)


def test_fields_that_are_unknown_or_missing():
  config = cifar10.get_config()
  config.model.depht = 40
  with pytest.raises(UserError, match='config.model.depht: no such field'):
    config_lib.check(config)
  config = cifar10.get_config()
  del config.distill.beta
  with pytest.raises(UserError, match='config.distill.beta: missing: expected a number of at least 0'):
    config_lib.check(config)


def test_students_have_what_they_name_and_share_the_rest():
  config = cifar10.get_config()
  config.distill.teacher = 't'
  assert config_lib.students(config) == {'': config}
  config.distill.students = (
    'block=BG(2,M/8) alpha=0 seed=3',
    'depth=16 beta=0 temperature=2 kd_form=hinton standardise=True ce_weight=0.1 alpha=9',
  )
  first, second = config_lib.students(config).values()
  assert (first.model.block, first.model.depth, first.model.seed, first.seed) == ('BG(2,M/8)', 40, 3, 0)
  assert (first.distill.alpha, first.distill.beta, first.distill.teacher) == (0.0, 1000.0, 't')
  assert (second.model.block, second.model.depth, second.model.seed) == ('S', 16, 0)
  assert (second.distill.beta, second.distill.temperature, second.distill.kd_form) == (0.0, 2.0, 'hinton')
  assert (second.distill.standardise, second.distill.ce_weight, second.distill.alpha) == (True, 0.1, 9.0)
  assert first.distill.students == second.distill.students == ()


def test_names_of_folders_tell_all_words_apart_and_are_short_enough():
  config = cifar10.get_config()
  long = 'block=' + ','.join(['S'] * 17 + ['G(N/8)'])
  config.distill.students = ('block=S ce_weight=1', 'block=S ce_weight=-1', f'{long} alpha=0', f'{long} beta=0')
  config.distill.students += tuple(f'{long} temperature={"0" * 200}{i}' for i in (1, 2))
  names = list(config_lib.students(config))
  assert names[:2] == ['block-S-ce-weight-1', 'block-S-ce-weight-minus-1']
  assert len(names) == 6 and max(map(len, names)) == 200 and names[-1][:191] == names[-2][:191]


@pytest.mark.parametrize(
  ('students', 'message'),
  [
    (('blok=S',), "'blok=S' in 'blok=S': expected words like block=G\\(N/8\\), of network, depth, width, block"),
    (('block=S standardise=yes',), "'standardise=yes' in .*: 'yes': expected True or False"),
    (('block=S width=two',), "'width=two' in 'block=S width=two': invalid literal"),
    (('block=G(3)',), "'block=G\\(3\\)': config.model.block='G\\(3\\)': .*3 groups do not divide"),
    (('',), "'': expected words like block=G"),
    (('block=' + 'S,' * 6000,), "'block=S,S.*: expected words like block=G.*, of at most 12,000 characters"),
    (('block=S', 'block=S'), "'block=S' is there twice"),
  ],
)
def test_students_that_are_none(students, message):
  config = cifar10.get_config()
  config.distill.students = students
  with pytest.raises(UserError, match='^config.distill.students: ' + message):
    config_lib.students(config)


@pytest.mark.parametrize(
  ('teacher', 'alpha', 'beta', 'regime'),
  [
    ('', 0.9, 1000.0, 'none'),
    ('t', 0.0, 0.0, 'none'),
    ('t', 0.9, 0.0, 'KD'),
    ('t', 0.0, 1.0, 'AT'),
    ('t', 1.0, 1.0, 'KD+AT'),
  ],
)
def test_regimes(teacher, alpha, beta, regime):
  config = ml_collections.ConfigDict(
    {'distill': {'teacher': teacher, 'alpha': alpha, 'beta': beta, 'blockwise': False}}
  )
  assert config_lib.regime(config) == regime


def test_the_fields_of_the_loss_that_count():
  config = cifar10.get_config()
  assert config_lib.loss_fields(config) == []
  config.distill.update(teacher='t', beta=0.0, kd_form='dkd')
  of_dkd = ['alpha', 'ce_weight', 'temperature', 'kd_form', 'kd_warmup', 'standardise', 'dkd_target', 'dkd_others']
  assert config_lib.loss_fields(config) == [f'distill.{name}' for name in of_dkd]
  config.distill.kd_form = 'mine.py:loss'
  assert 'distill.temperature' not in config_lib.loss_fields(config)
  config.distill.update(alpha=0.0, beta=1.0)
  assert config_lib.loss_fields(config) == [f'distill.{name}' for name in ('beta', 'ce_weight', 'at_form', 'at_warmup')]


def test_a_file_that_is_older_than_a_field_has_its_default():
  values = config_lib.to_json(config_lib.create_config())
  del values['blockwise'], values['distill']['start']
  assert config_lib.flatten(config_lib.from_json(values)) == config_lib.flatten(config_lib.create_config())
  del values['distill']['alpha']
  with pytest.raises(UserError, match=r'^config\.distill\.alpha: missing: '):
    config_lib.from_json(values)
