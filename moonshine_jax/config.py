"""What a config may hold: checked whole, before anything is read, downloaded or compiled."""

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import ml_collections

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
MAX_STUDENT = 255  # characters, the limit of a folder's name


def _integer(least: int, most: int = MAX_COUNT) -> tuple[Callable[[Any], bool], str]:
  expected = f'an integer of at least {least} and at most {most}'
  return lambda value: type(value) is int and least <= value <= most, expected


def _number(inside: Callable[[float], bool], expected: str) -> tuple[Callable[[Any], bool], str]:
  return lambda value: type(value) in (int, float) and inside(value), f'a number {expected}'


def _choice(values: tuple[str, ...]) -> tuple[Callable[[Any], bool], str]:
  return lambda value: value in values, 'one of ' + ', '.join(values)


def _increasing_epochs(value: Any) -> bool:
  return (
    isinstance(value, tuple)
    and all(type(epoch) is int and 0 < epoch <= MAX_COUNT for epoch in value)
    and list(value) == sorted(set(value))
  )


_POSITIVE = _number(lambda value: 0 < value <= MAX_NUMBER, f'above 0 and at most {MAX_NUMBER:g}')
_NOT_NEGATIVE = _number(lambda value: 0 <= value <= MAX_NUMBER, f'of at least 0 and at most {MAX_NUMBER:g}')
_TEXT = (lambda value: isinstance(value, str), 'a string')
_NAME = (lambda value: isinstance(value, str) and bool(value), 'a string that is not empty')

# Every field, with the test of its value and the words for what would be right.
FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
  'seed': _integer(0, MAX_SEED),
  'batch_size': _integer(1),
  'epochs': _integer(0),  # 0 of a network that was given, not trained
  'steps_per_dispatch': _integer(1),
  'eval_every': _integer(1),
  'checkpoint_every': _integer(1),
  'model.seed': _integer(0, MAX_SEED),
  'model.network': _NAME,
  'model.depth': _integer(1),
  'model.width': _integer(1, wide_resnet.MAX_WIDTH),
  'model.block': _NAME,
  'model.dtype': _choice(DTYPES),
  'data.name': _NAME,
  'data.data_dir': _TEXT,
  'data.train_split': _NAME,
  'data.test_split': _NAME,
  'data.feed': _choice(FEEDS),
  'data.image_size': _integer(0, MAX_IMAGE_SIZE),
  'data.pad': _integer(0),
  'data.flip': (lambda value: isinstance(value, bool), 'True or False'),
  'optimizer.learning_rate': _POSITIVE,
  'optimizer.momentum': _number(lambda value: 0 <= value < 1, 'from 0 to below 1'),
  'optimizer.weight_decay': _NOT_NEGATIVE,
  'optimizer.decay_factor': _POSITIVE,
  'optimizer.decay_epochs': (
    _increasing_epochs,
    f'increasing positive integers, as (60, 120, 160), of at most {MAX_COUNT}',
  ),
  'distill.teacher': _TEXT,
  'distill.students': (
    lambda value: isinstance(value, tuple) and all(isinstance(each, str) for each in value),
    'a tuple of strings',
  ),
  'distill.alpha': _number(lambda value: 0 <= value <= 1, 'from 0 to 1'),
  'distill.beta': _NOT_NEGATIVE,
  'distill.temperature': _number(lambda value: 1e-3 <= value <= 1e6, 'from 0.001 to 1e+06'),
  'distill.kd_form': _choice(losses.KD_FORMS),
  'distill.at_form': _choice(losses.AT_FORMS),
}


def check(config: ml_collections.ConfigDict) -> None:
  """Raises UserError, naming the field, its value and what would be right, for a config that cannot be run."""
  check_fields(config)
  factory.check(config.model)


def check_fields(config: ml_collections.ConfigDict) -> None:
  """Raises UserError likewise, for a field by itself: missing, unknown, or of a wrong value."""
  values = flatten(config)
  for name in values:
    if name not in FIELDS:
      raise UserError(f'config.{name}: no such field: expected {", ".join(FIELDS)}')
  for name, (valid, expected) in FIELDS.items():
    if name not in values:
      raise UserError(f'config.{name}: missing: expected {expected}')
    if not valid(values[name]):
      raise UserError(f'config.{name}={shown(values[name])}: expected {expected}')
  if config.data.image_size:
    for name, expected in (('feed', 'stream'), ('pad', 0)):
      if config.data[name] != expected:
        raise UserError(
          f'config.data.{name}={config.data[name]!r}: expected {expected!r} with '
          f'config.data.image_size={config.data.image_size}: images are cropped as they are read'
        )


# What a student of `distill.students` may have of its own: the word for it, and the config's field.
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
}


def students(config: ml_collections.ConfigDict) -> dict[str, ml_collections.ConfigDict]:
  """The config of every student of `distill.students`, as if it were trained alone, by the name of its folder.

  A student is written as words such as 'block=G(N/8) alpha=0 seed=1'; what it does not name is the config's. Without
  students, the config itself, by the name ''. Raises UserError.
  """
  found = {}
  for words in config.distill.students:
    if not words.strip() or len(words) > MAX_STUDENT:
      raise UserError(
        f'config.distill.students: {shown(words)}: expected words like block=G(N/8), of at most '
        f'{MAX_STUDENT} characters in all, since they name its folder'
      )
    name = re.sub('[^A-Za-z0-9.]+', '-', words).strip('-')
    if name in found:
      raise UserError(f'config.distill.students: {words!r} is there twice')
    alone = copy.deepcopy(config)
    alone.distill.students = ()
    for word in words.split():
      key, _, value = word.partition('=')
      if key not in STUDENT_FIELDS:
        raise UserError(
          f'config.distill.students: {word!r} in {words!r}: expected words like block=G(N/8), of '
          f'{", ".join(STUDENT_FIELDS)}'
        )
      field = STUDENT_FIELDS[key]
      try:
        alone.update_from_flattened_dict({field: type(flatten(config)[field])(value)})
      except ValueError as error:
        raise UserError(f'config.distill.students: {word!r} in {words!r}: {error}') from error
    if factory.is_user(alone.model) and re.search(r'\b(depth|width)=', words):
      raise UserError(
        f'config.distill.students: {words!r}: expected no depth and no width: {factory.name(alone.model)} has neither'
      )
    try:
      check(alone)
    except UserError as error:
      raise UserError(f'config.distill.students: {words!r}: {error}') from error
    found[name] = alone
  return found or {'': config}


def loaded(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The value of a config flag, whose file ml_collections reports as missing only once it is looked into."""
  try:
    config.items()
  except OSError as error:
    raise UserError(f'--config: {error.__cause__}') from error
  except AttributeError as error:
    raise UserError(f'--config: expected a ConfigDict of get_config, not {type(config).__name__}') from error
  return config


def regime(config: ml_collections.ConfigDict) -> str:
  """How the network learns: 'none', 'KD', 'AT' or 'KD+AT'."""
  if not config.distill.teacher:
    return 'none'
  return (
    '+'.join([name for name, weight in (('KD', config.distill.alpha), ('AT', config.distill.beta)) if weight]) or 'none'
  )


def flatten(config: ml_collections.ConfigDict, prefix: str = '') -> dict[str, Any]:
  """{'model.depth': 40, ...}: the values by their dotted names."""
  values = {}
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      values.update(flatten(value, f'{prefix}{name}.'))
    else:
      values[prefix + name] = value
  return values


def to_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The config as plain JSON values."""
  return json.loads(config.to_json())


def from_json(values: dict[str, Any]) -> ml_collections.ConfigDict:
  """The config of `to_json`; JSON's lists become the tuples that they were."""

  def restore(value):
    if isinstance(value, dict):
      return {name: restore(each) for name, each in value.items()}
    return tuple(value) if isinstance(value, list) else value

  return ml_collections.ConfigDict(restore(values))
