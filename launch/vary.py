"""`sweep --vary`: which values of which fields students are trained with, and what their held-out errors say."""

import itertools
import random
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
import tabulate

from moonshine_jax import config as config_lib
from moonshine_jax.errors import UserError, shown
from moonshine_jax.fields import FIELDS
from moonshine_jax.launch import jobs
from moonshine_jax.workdir.workdir import Workdir

HELD_OUT = 0.1  # share of the training split on which a choice is made, where the config holds out none
FIXED = {
  'seed': '--seeds',
  'model.seed': '--seeds',
  'distill.students': '--blocks',
  'distill.teacher': "the sweep's own",
  'distill.blockwise': 'distill.start',
  **dict.fromkeys(
    ('data.name', 'data.data_dir', 'data.train_split', 'data.test_split', 'data.held_out'), 'one data set'
  ),
}
SHOWN = 10  # points in the table of the best

Point = dict[str, Any]  # the value of each field that is varied, by its dotted name


class Varied(NamedTuple):
  """A student at a point.

  Attributes:
    student: the words of the student without those of the point.
    point: the values of the fields that are varied.
    words: all words of the student, as in `distill.students`.
    changes: the fields of the point that are no student's but of a whole job.
  """

  student: str
  point: Point
  words: str
  changes: Point


def parse_vary(texts: Sequence[str]) -> dict[str, list[Any]]:
  """Returns the values of each field of --vary=FIELD=VALUE,VALUE. Raises UserError."""
  varied: dict[str, list[Any]] = {}
  for text in texts:
    field, _, values = text.partition('=')
    if field not in FIELDS or field in FIXED or field in varied:
      reason = f'expected {FIXED[field]}' if field in FIXED else 'expected FIELD=VALUE,VALUE of another field'
      raise UserError(f'--vary={shown(text)[1:-1]}: {field!r}: {reason}, as distill.temperature=2,4,8')
    try:
      varied[field] = [config_lib.parse_value(type(FIELDS[field].default), value) for value in _split(values)]
    except ValueError as error:
      raise UserError(f'--vary={shown(text)[1:-1]}: {error}') from error
    for value in varied[field]:
      if not FIELDS[field].kind.valid(value):
        raise UserError(f'--vary={shown(text)[1:-1]}: {shown(value)}: expected {FIELDS[field].kind.expected}')
  return varied


def _split(values: str) -> list[str]:
  """Splits at the commas that are in no brackets, as of 'G(N/8),B(2)' and of '(6,12),(10,15)'."""
  parts, depth = [''], 0
  for character in values:
    depth += (character in '([') - (character in ')]')
    if character == ',' and not depth:
      parts.append('')
    else:
      parts[-1] += character
  return parts


def choose_points(varied: Mapping[str, Sequence[Any]], number: int | None) -> list[Point]:
  """Returns every combination of the values; or so many of them, drawn at random, the same each time."""
  points = [dict(zip(varied, values, strict=True)) for values in itertools.product(*varied.values())]
  if number is None or number >= len(points):
    return points
  return random.Random(0).sample(points, number)


def vary_students(students: Sequence[str], points: Sequence[Point]) -> list[Varied]:
  """Returns every student at every point."""
  words = {field: word for word, field in config_lib.STUDENT_FIELDS.items()}
  return [
    Varied(
      student,
      point,
      ' '.join(
        [student, *(f'{words[field]}={value}'.replace(' ', '') for field, value in point.items() if field in words)]
      ).strip(),
      {field: value for field, value in point.items() if field not in words},
    )
    for student, point in itertools.product(students, points)
  ]


def group_by_job(varied: Sequence[Varied]) -> list[tuple[Point, list[str]]]:
  """Returns the words of students that can share a job, with the fields in which the job differs from the config."""
  groups: dict[str, tuple[Point, list[str]]] = {}
  for each in varied:
    groups.setdefault(str(each.changes), (each.changes, []))[1].append(each.words)
  return list(groups.values())


def read_errors(base: ml_collections.ConfigDict, varied: Sequence[Varied], seeds: int, out: Path) -> list[list[float]]:
  """Returns the held-out errors of every student at every point after its last epoch, of each seed that is finished."""
  errors: list[list[float]] = []
  for each in varied:
    errors.append([])
    for seed in range(seeds):
      workdir = Workdir(jobs.job_folder(out, each.changes, seed) / config_lib.folder_name(each.words))
      records = workdir.records if workdir.begun else []
      if records and records[-1]['epoch'] == each.changes.get('epochs', base.epochs):
        errors[-1].append(records[-1]['test_error'])
  return errors


def tell_choice(varied: Sequence[Varied], errors: Sequence[Sequence[float]]) -> str:
  """Writes the tables of held-out errors, by field and of the best points, and what is best of each student.

  Args:
    varied: every student at every point.
    errors: of each the held-out errors in percent, one for each seed; empty where none is finished.
  """
  texts = []
  for student in dict.fromkeys(each.student for each in varied):
    found = [
      (each.point, list(of_seeds))
      for each, of_seeds in zip(varied, errors, strict=True)
      if each.student == student and of_seeds
    ]
    if found:
      texts.append(_tell_choice_of(student, sorted(found, key=lambda each: statistics.mean(each[1]))))
  return '\n\n'.join(texts)


def _tell_choice_of(student: str, found: Sequence[tuple[Point, list[float]]]) -> str:
  by_field = []
  for field in found[0][0]:
    for value in dict.fromkeys(str(point[field]) for point, _ in found):
      means = [statistics.mean(of_seeds) for point, of_seeds in found if str(point[field]) == value]
      by_field.append([field, value, _with_error(means), str(len(means))])
  rows = [[*map(str, point.values()), _with_error(of_seeds), str(len(of_seeds))] for point, of_seeds in found[:SHOWN]]
  point, of_seeds = found[0]
  seeds = f'over {len(of_seeds)} seeds' if len(of_seeds) > 1 else 'one seed: no standard error'
  flags = shlex.join(f'--config.{field}={value}' for field, value in point.items())
  return '\n\n'.join([
    f'{student}: held-out errors in percent, mean ± standard error',
    _table(['field', 'value', 'over the other fields', 'points'], by_field),
    _table([*point, 'error', 'seeds'], rows),
    f'best of {len(found)} points: {flags}: {_with_error(of_seeds)}% ({seeds}). The lowest of several is too low: '
    'train it on the whole training split for its test error.',
  ])  # fmt: skip


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  return tabulate.tabulate(rows, headings, 'github', disable_numparse=True)


def _with_error(values: Sequence[float]) -> str:
  if len(values) < 2:
    return f'{values[0]:.2f}'
  return f'{statistics.mean(values):.2f} ± {statistics.stdev(values) / len(values) ** 0.5:.2f}'
