"""The fields of a config: their defaults, which are the paper's recipe, and their checks.

A config is checked whole, before anything is read, downloaded or compiled.
"""

import copy
import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
from flax import traverse_util

from moonshine_jax import losses
from moonshine_jax.errors import UserError, shown
from moonshine_jax.models import factory, wide_resnet

DTYPES = ('float32', 'bfloat16')
FEEDS = ('resident', 'stream')

# Bounds that no real run meets. Beyond them a seed repeats another's (JAX's keys take 32 bits of it), a count does not
# fit the 32 bits of the step, and a number or its square is no float32.
MAX_SEED = 2**32 - 1
MAX_COUNT = 10**9
MAX_NUMBER = 1e9
MAX_IMAGE_SIZE = 4096  # pixels on a side
MAX_PATH, MAX_FILE_NAME = 4095, 255  # bytes, the limits of Linux
MAX_STUDENT = 255  # characters, the limit of a folder's name


@dataclasses.dataclass(frozen=True)
class Kind:
  """The values that a field may have.

  Attributes:
    valid: whether a value is one of them.
    expected: the words for them.
  """

  valid: Callable[[Any], bool]
  expected: str


@dataclasses.dataclass(frozen=True)
class Field:
  """A field of a config.

  Attributes:
    default: the value where a config does not say another.
    kind: the values that it may have.
    meaning: what it says, in a line.
    recipe: whether the default is of the paper's recipe (section 4.1, and the released code).
  """

  default: Any
  kind: Kind
  meaning: str
  recipe: bool = False


def _integer(least: int, most: int = MAX_COUNT) -> Kind:
  return Kind(
    lambda value: type(value) is int and least <= value <= most,
    f'an integer of at least {least} and at most {most}',
  )


def _number(inside: Callable[[float], bool], expected: str) -> Kind:
  return Kind(lambda value: type(value) in (int, float) and inside(value), f'a number {expected}')


def _choice(values: tuple[str, ...]) -> Kind:
  return Kind(lambda value: value in values, 'one of ' + ', '.join(values))


def _may_be_path(text: str) -> bool:
  try:
    encoded = os.fsencode(text)
    return '\0' not in text and len(encoded) <= MAX_PATH and max(map(len, encoded.split(b'/'))) <= MAX_FILE_NAME
  except UnicodeEncodeError:  # a lone surrogate that stands for no byte
    return False


def _increasing_epochs(value: Any) -> bool:
  return (
    isinstance(value, tuple)
    and all(type(epoch) is int and 0 < epoch <= MAX_COUNT for epoch in value)
    and list(value) == sorted(set(value))
  )


_POSITIVE = _number(lambda value: 0 < value <= MAX_NUMBER, f'above 0 and at most {MAX_NUMBER:g}')
_NOT_NEGATIVE = _number(lambda value: 0 <= value <= MAX_NUMBER, f'of at least 0 and at most {MAX_NUMBER:g}')
_FRACTION = _number(lambda value: 0 <= value <= 1, 'from 0 to 1')
_MOMENTUM = _number(lambda value: 0 <= value < 1, 'from 0 to below 1')
_TEMPERATURE = _number(lambda value: 1e-3 <= value <= 1e6, 'from 0.001 to 1e+06')
_BOOL = Kind(lambda value: isinstance(value, bool), 'True or False')
_NAME = Kind(lambda value: isinstance(value, str) and bool(value), 'a string that is not empty')
_PATH = Kind(lambda value: isinstance(value, str) and _may_be_path(value), 'a string that may be a path')
_PATH_OR_NAME = Kind(lambda value: _PATH.valid(value) and bool(value), 'a string that is not empty: a path or a name')
_TEXTS = Kind(
  lambda value: isinstance(value, tuple) and all(isinstance(text, str) for text in value), 'a tuple of strings'
)
_EPOCHS = Kind(_increasing_epochs, f'increasing positive integers, as (60, 120, 160), of at most {MAX_COUNT}')

FIELDS: dict[str, Field] = {
  'seed': Field(0, _integer(0, MAX_SEED), 'of the order of the examples and their augmentation'),
  'batch_size': Field(128, _integer(1), 'examples in a step, over all devices', recipe=True),
  'epochs': Field(200, _integer(0), 'passes over the training split; 0 for a network trained elsewhere', recipe=True),
  'steps_per_dispatch': Field(
    39,
    _integer(1),
    'steps that the devices run without hearing from the host (feed resident); an epoch of CIFAR has 10 times 39',
  ),
  'eval_every': Field(1, _integer(1), 'epochs from one evaluation to the next'),
  'checkpoint_every': Field(5, _integer(1), 'epochs from one checkpoint to the next'),
  'model.seed': Field(0, _integer(0, MAX_SEED), 'of the initial parameters'),
  'model.network': Field(
    'wide_resnet',
    _PATH_OR_NAME,
    'wide_resnet, resnet, or a function that returns a linen module: package.module:function, path/file.py:function',
  ),
  'model.depth': Field(40, _integer(1), 'layers; not of a function'),
  'model.width': Field(2, _integer(1, wide_resnet.MAX_WIDTH), 'factor of the channels; not of a function'),
  'model.block': Field(
    'S', _NAME, 'one notation for the network; several, separated by commas, for its groups; or one for every block'
  ),
  'model.dtype': Field('float32', _choice(DTYPES), 'of the computation', recipe=True),
  'data.name': Field('cifar10', _PATH_OR_NAME, 'of TFDS, or digits, or a function that returns arrays'),
  'data.data_dir': Field('', _PATH, "where TFDS's data is, or goes; empty for ~/tensorflow_datasets"),
  'data.train_split': Field('train', _NAME, 'or a part of it, as TFDS writes one: train[:50%]', recipe=True),
  'data.test_split': Field('test', _NAME, 'or a part of it', recipe=True),
  'data.feed': Field('resident', _choice(FEEDS), 'the data set on the devices; or stream, from the host'),
  'data.image_size': Field(
    0,
    _integer(0, MAX_IMAGE_SIZE),
    'pixels on a side to which images of any size are cropped as they are read; 0 for images of one size',
  ),
  'data.pad': Field(4, _integer(0), 'pixels on each side, before the random crop', recipe=True),
  'data.flip': Field(True, _BOOL, 'mirrors half of the images', recipe=True),
  'optimizer.learning_rate': Field(0.1, _POSITIVE, 'at the start', recipe=True),
  'optimizer.momentum': Field(0.9, _MOMENTUM, 'of SGD', recipe=True),
  'optimizer.weight_decay': Field(5e-4, _NOT_NEGATIVE, 'on every parameter', recipe=True),
  'optimizer.decay_factor': Field(0.2, _POSITIVE, 'of the learning rate, at each decay', recipe=True),
  'optimizer.decay_epochs': Field((60, 120, 160), _EPOCHS, 'epochs after which the learning rate falls', recipe=True),
  'distill.teacher': Field('', _PATH, "the teacher's workdir; empty for no distillation"),
  'distill.start': Field(
    '',
    _PATH,
    "where the student's parameters begin: empty for random ones; blockwise for blocks that have each learnt alone "
    'what the teacher has in their place; or the workdir of a network with the same blocks',
  ),
  'distill.blockwise': Field(
    False, _BOOL, 'whether each block learns alone, as distill.start=blockwise has it, in place of the loss'
  ),
  'distill.students': Field(
    (),
    _TEXTS,
    "several students of one run, each in a folder in the workdir: ('block=G(N/8) alpha=0', 'block=B(2) seed=1'); "
    'what one does not name is as in the other fields',
  ),
  'distill.alpha': Field(0.9, _FRACTION, 'weight of knowledge distillation; 0 for none', recipe=True),
  'distill.beta': Field(1000.0, _NOT_NEGATIVE, 'weight of attention transfer; 0 for none', recipe=True),
  'distill.temperature': Field(4.0, _TEMPERATURE, 'of knowledge distillation', recipe=True),
  'distill.kd_form': Field('released', _choice(losses.KD_FORMS), 'see moonshine_jax/losses.py', recipe=True),
  'distill.at_form': Field('released', _choice(losses.AT_FORMS), 'see moonshine_jax/losses.py', recipe=True),
  'blockwise.epochs': Field(1, _integer(1), 'passes over the training split in which blocks learn alone'),
  'blockwise.optimizer': Field('adam', _choice(('adam', 'sgd')), 'of blocks that learn alone'),
  'blockwise.learning_rate': Field(3e-3, _POSITIVE, 'at the start; it falls to 0 by a cosine'),
  'blockwise.calibration_steps': Field(
    100, _integer(1), "steps in which BN's running statistics are estimated once the blocks are put together"
  ),
}

MAY_DIFFER = {'data.data_dir', 'data.feed', 'steps_per_dispatch'}  # fields that change no bit of a run
RECIPE = {name: field.default for name, field in FIELDS.items() if field.recipe}

# The word for a field in which the students of `distill.students` may differ.
STUDENT_FIELDS = {
  'network': 'model.network',
  'depth': 'model.depth',
  'width': 'model.width',
  'block': 'model.block',
  'seed': 'model.seed',
  'alpha': 'distill.alpha',
  'beta': 'distill.beta',
  'temperature': 'distill.temperature',
  'kd_form': 'distill.kd_form',
  'at_form': 'distill.at_form',
  'start': 'distill.start',
}


def create_config(values: Mapping[str, Any] | None = None) -> ml_collections.ConfigDict:
  """Returns a config of the defaults with other values of some fields, by their dotted names."""
  fields = {name: field.default for name, field in FIELDS.items()} | dict(values or {})
  return ml_collections.ConfigDict(traverse_util.unflatten_dict(fields, sep='.'))


def check(config: ml_collections.ConfigDict) -> None:
  """Raises UserError, naming the field, its value and what would be right, for a config that cannot be run."""
  check_fields(config)
  factory.check_model(config.model)


def check_fields(config: ml_collections.ConfigDict) -> None:
  """Raises UserError for a field that is missing, unknown, or of a wrong value, whatever the others say."""
  values = flatten(config)
  for name in values:
    if name not in FIELDS:
      raise UserError(f'config.{name}: no such field: expected {", ".join(FIELDS)}')
  for name, field in FIELDS.items():
    if name not in values:
      raise UserError(f'config.{name}: missing: expected {field.kind.expected}')
    if not field.kind.valid(values[name]):
      raise UserError(f'config.{name}={shown(values[name])}: expected {field.kind.expected}')
  if not config.distill.teacher and (config.distill.start == 'blockwise' or config.distill.blockwise):
    raise UserError("config.distill.teacher='': expected the workdir of the teacher that the blocks learn from")
  if config.data.image_size:
    for name, expected in (('feed', 'stream'), ('pad', 0)):
      if config.data[name] != expected:
        raise UserError(
          f'config.data.{name}={config.data[name]!r}: expected {expected!r} with '
          f'config.data.image_size={config.data.image_size}: images are cropped as they are read'
        )


def students(config: ml_collections.ConfigDict) -> dict[str, ml_collections.ConfigDict]:
  """Returns the config of every student, as if it were trained alone, by the name of its folder.

  A student of `distill.students` is written as words such as 'block=G(N/8) alpha=0 seed=1'; what it does not name is as
  in the config. Without students, the config itself, by the name ''. Raises UserError.
  """
  configs = {}
  for words in config.distill.students:
    if not words.strip() or len(words) > MAX_STUDENT:
      raise UserError(
        f'config.distill.students: {shown(words)}: expected words like block=G(N/8), of at most '
        f'{MAX_STUDENT} characters in all, since they name its folder'
      )
    name = folder_name(words)
    if name in configs:
      raise UserError(f'config.distill.students: {words!r} is there twice')
    configs[name] = _student(config, words)
  return configs or {'': config}


def folder_name(words: str) -> str:
  """Returns the name of the folder of a student of `distill.students`."""
  return re.sub('[^A-Za-z0-9.]+', '-', words).strip('-')


def _student(config: ml_collections.ConfigDict, words: str) -> ml_collections.ConfigDict:
  """The config of a student from its words. Raises UserError."""
  student = copy.deepcopy(config)
  student.distill.students = ()
  where = f'config.distill.students: {words!r}'
  for word in words.split():
    key, _, value = word.partition('=')
    if key not in STUDENT_FIELDS:
      raise UserError(
        f'config.distill.students: {word!r} in {words!r}: expected words like block=G(N/8), of '
        f'{", ".join(STUDENT_FIELDS)}'
      )
    field = STUDENT_FIELDS[key]
    try:
      student.update_from_flattened_dict({field: type(flatten(config)[field])(value)})
    except ValueError as error:
      raise UserError(f'config.distill.students: {word!r} in {words!r}: {error}') from error
  if factory.is_user_defined(student.model) and re.search(r'\b(depth|width)=', words):
    raise UserError(f'{where}: expected no depth and no width: {factory.network_name(student.model)} has neither')
  try:
    check(student)
  except UserError as error:
    raise UserError(f'{where}: {error}') from error
  return student


def regime(config: ml_collections.ConfigDict) -> str:
  """Returns how the network learns: 'none', 'KD', 'AT', 'KD+AT' or 'blockwise'."""
  if not config.distill.teacher:
    return 'none'
  if config.distill.blockwise:
    return 'blockwise'
  weights = {'KD': config.distill.alpha, 'AT': config.distill.beta}
  return '+'.join(name for name, weight in weights.items() if weight) or 'none'


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the values by their dotted names: {'model.depth': 40, ...}."""
  return traverse_util.flatten_dict(config.to_dict(), sep='.')


def difference(ours: ml_collections.ConfigDict, theirs: ml_collections.ConfigDict) -> str:
  """Returns in words where a run of one config cannot go on as a run of the other; empty where it can."""
  ours, theirs = flatten(ours), flatten(theirs)
  return ', '.join(
    f'config.{name}={shown(ours.get(name))} (there: {shown(theirs.get(name))})'
    for name in sorted({*ours, *theirs} - MAY_DIFFER)
    if ours.get(name) != theirs.get(name)
  )


def to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the config as plain JSON values."""
  return json.loads(config.to_json())


def from_json(values: dict[str, Any]) -> ml_collections.ConfigDict:
  """Returns the config of `to_json`; JSON's lists become the tuples that they were.

  Raises UserError, naming the field, as `check_fields`.
  """
  flat = traverse_util.flatten_dict(values)
  for path in flat:
    if '.'.join(path) not in FIELDS or any('.' in name for name in path):
      raise UserError(f'config.{shown(".".join(path))[1:-1]}: no such field: expected {", ".join(FIELDS)}')
  fields = {path: tuple(value) if isinstance(value, list) else value for path, value in flat.items()}
  config = ml_collections.ConfigDict(traverse_util.unflatten_dict(fields))
  check_fields(config)
  return config
