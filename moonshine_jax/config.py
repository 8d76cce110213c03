"""Configs: made, checked whole before anything is read, downloaded or compiled, and compared; see `fields`."""

import ast
import copy
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import ml_collections
from flax import traverse_util

from moonshine_jax.errors import UserError, shown
from moonshine_jax.fields import FIELDS, MAY_DIFFER
from moonshine_jax.models import factory
from moonshine_jax.runtime import user_functions

MAX_STUDENT = 12_000  # characters of words, of which a network's notations may be most
LONGEST_NAME = 200  # characters of a folder's name, which may have an ending within the limit of 255

LOSS_FIELDS = (
  'distill.alpha',
  'distill.beta',
  'distill.ce_weight',
  'distill.temperature',
  'distill.kd_form',
  'distill.at_form',
  'distill.kd_warmup',
  'distill.at_warmup',
  'distill.standardise',
  'distill.dkd_target',
  'distill.dkd_others',
  'distill.dist_inter',
  'distill.dist_intra',
)
# Of which form of KD each is alone.
KD_FORM_OF = {
  'distill.dkd_target': 'dkd',
  'distill.dkd_others': 'dkd',
  'distill.dist_inter': 'dist',
  'distill.dist_intra': 'dist',
}

# The word for a field in which the students of `distill.students` may differ.
STUDENT_FIELDS = {
  'network': 'model.network',
  'depth': 'model.depth',
  'width': 'model.width',
  'block': 'model.block',
  'seed': 'model.seed',
  'start': 'distill.start',
  **{name.removeprefix('distill.'): name for name in LOSS_FIELDS},
  **{name.removeprefix('optimizer.'): name for name in FIELDS if name.startswith('optimizer.')},
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
  _check_together(config)


def _check_together(config: ml_collections.ConfigDict) -> None:
  """Raises UserError for fields that are right each, and not together."""
  if not config.distill.teacher and (config.distill.start == 'blockwise' or config.distill.blockwise):
    raise UserError("config.distill.teacher='': expected the workdir of the teacher that the blocks learn from")
  if config.distill.alpha > 1 and config.distill.ce_weight == -1:
    raise UserError(
      f'config.distill.alpha={config.distill.alpha}: expected at most 1 beside config.distill.ce_weight=-1, which is '
      '1 - alpha: give cross entropy a weight of its own'
    )
  optimizer = config.optimizer
  if optimizer.warmup_epochs and optimizer.warmup_epochs >= config.epochs > 0:
    raise UserError(
      f'config.optimizer.warmup_epochs={optimizer.warmup_epochs}: expected less than config.epochs={config.epochs}'
    )
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
        f'config.distill.students: {shown(words)}: expected words like block=G(N/8), of at most {MAX_STUDENT:,} '
        'characters in all'
      )
    name = folder_name(words)
    if name in configs:
      raise UserError(f'config.distill.students: {words!r} is there twice')
    configs[name] = _student(config, words)
  return configs or {'': config}


def folder_name(words: str) -> str:
  """Returns the name of the folder of a student of `distill.students`; of long words a hash stands for the end."""
  name = re.sub('[^A-Za-z0-9.]+', '-', words.replace('=-', '=minus-')).strip('-')
  if len(name) > LONGEST_NAME:
    name = f'{name[: LONGEST_NAME - 9]}-{hashlib.sha256(words.encode()).hexdigest()[:8]}'
  return name


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
      student.update_from_flattened_dict({field: parse_value(type(flatten(config)[field]), value)})
    except ValueError as error:
      raise UserError(f'config.distill.students: {word!r} in {words!r}: {error}') from error
  if factory.is_user_defined(student.model) and re.search(r'\b(depth|width)=', words):
    raise UserError(f'{where}: expected no depth and no width: {factory.network_name(student.model)} has neither')
  try:
    check(student)
  except UserError as error:
    raise UserError(f'{where}: {error}') from error
  return student


def parse_value(kind: type, text: str) -> Any:
  """Returns the value of a field of a type from a text. Raises ValueError."""
  if kind is bool and text not in ('True', 'False'):
    raise ValueError(f'{text!r}: expected True or False')
  if kind is tuple:
    try:
      return tuple(ast.literal_eval(text))
    except (SyntaxError, TypeError) as error:
      raise ValueError(f'{text!r}: expected a tuple, as (6,12,16)') from error
  return text == 'True' if kind is bool else kind(text)


def check_trains(config: ml_collections.ConfigDict) -> None:
  """Raises UserError for the config of a network that was given."""
  if not config.epochs:
    raise UserError('config.epochs=0: expected at least 1: 0 is of a network that was given, which nothing trains on')


def loss_fields(config: ml_collections.ConfigDict) -> list[str]:
  """Returns the fields of the loss that a student's loss depends on, by their dotted names."""
  learns = regime(config)
  unused: set[str] = set() if 'KD' in learns else {'distill.alpha', 'distill.temperature', 'distill.standardise'}
  if 'KD' in learns and user_functions.is_name(config.distill.kd_form):
    unused |= {'distill.temperature'}
  unused |= {name for name, form in KD_FORM_OF.items() if 'KD' not in learns or config.distill.kd_form != form}
  unused |= set() if 'AT' in learns else {'distill.beta'}
  unused |= {
    f'distill.{loss.lower()}_{word}' for loss in ('KD', 'AT') if loss not in learns for word in ('form', 'warmup')
  }
  return [name for name in LOSS_FIELDS if name not in unused] if learns not in ('none', 'blockwise') else []


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

  Fields that are newer than the file have their defaults. Raises UserError, naming the field, as `check_fields`.
  """
  flat = {tuple(name.split('.')): field.default for name, field in FIELDS.items() if field.later}
  flat |= traverse_util.flatten_dict(values)
  for path in flat:
    if '.'.join(path) not in FIELDS or any('.' in name for name in path):
      raise UserError(f'config.{shown(".".join(path))[1:-1]}: no such field: expected {", ".join(FIELDS)}')
  fields = {path: tuple(value) if isinstance(value, list) else value for path, value in flat.items()}
  config = ml_collections.ConfigDict(traverse_util.unflatten_dict(fields))
  check_fields(config)
  return config
