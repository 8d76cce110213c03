"""The runs of a folder, read from their workdirs or from one JSON file that replaces the workdirs."""

import dataclasses
import itertools
import json
import os
from pathlib import Path
from typing import Annotated, Any, TypedDict, cast

import ml_collections
from msgspec import Meta

from moonshine_jax import config as config_lib
from moonshine_jax import fields
from moonshine_jax.cost import counting
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError, shown
from moonshine_jax.models.blocks import Block
from moonshine_jax.models.factory import check_model, create_model
from moonshine_jax.runtime import files, json_files
from moonshine_jax.workdir import metrics, provenance
from moonshine_jax.workdir.workdir import Workdir

# Config fields that do not tell one recipe from another: the network and its seeds, which a table shows elsewhere, and
# how often a run evaluates and saves itself.
NOT_RECIPE = fields.MAY_DIFFER | {
  'seed',
  'model.seed',
  'model.network',
  'model.depth',
  'model.width',
  'model.block',
  'eval_every',
  'checkpoint_every',
  'distill.students',
  'distill.blockwise',
}


@dataclasses.dataclass(frozen=True)
class Run:
  """The facts of one run that a report shows.

  Attributes:
    name: path of the run's workdir within the folder of runs.
    config: the run's config. Its `distill.teacher` is the teacher's `name`, or a path if the teacher is not in the
      folder.
    facts: facts of the data set.
    parameters: number of the network's parameters, counted as in the paper.
    multiply_adds: multiply-adds for one image; None if they cannot be counted.
    epochs_done: number of epochs trained so far, of `config.epochs`.
    epochs: epochs after which the network was evaluated; 0 before any, where it started from a network.
    test_errors: test errors after these epochs, in percent.
    starts: when, how and on what the run was started, as `workdir.provenance` records it.
  """

  name: str
  config: ml_collections.ConfigDict
  facts: Facts
  parameters: int
  multiply_adds: int | None
  epochs_done: int
  epochs: tuple[int, ...]
  test_errors: tuple[float, ...]
  starts: tuple[dict[str, Any], ...]

  @property
  def finished(self) -> bool:
    """Whether the last epoch is trained and there is a test error."""
    return self.epochs_done >= self.config.epochs and bool(self.test_errors)

  @property
  def error(self) -> float:
    """The result: the test error after the last epoch, in percent."""
    return self.test_errors[-1]

  @property
  def regime(self) -> str:
    """The kind of distillation: 'none', 'KD', 'AT' or 'KD+AT'."""
    return config_lib.regime(self.config)

  @property
  def block(self) -> str:
    """The notation of the network's blocks, as `Block` writes it."""
    return ','.join(str(block) for block in Block.parse_list(self.config.model.block))

  @property
  def recipe(self) -> dict[str, Any]:
    """The config's values that a result depends on, the network and the seeds apart, by dotted name."""
    values = {name: value for name, value in config_lib.flatten(self.config).items() if name not in NOT_RECIPE}
    unused = tuple(set(config_lib.LOSS_FIELDS) - set(config_lib.loss_fields(self.config)))
    if self.regime == 'none' and self.config.distill.start != 'blockwise':
      unused += ('distill.teacher',)
    if self.config.optimizer.schedule == 'cosine':
      unused += ('optimizer.decay_epochs', 'optimizer.decay_factor')
    if not self.config.distill.start:
      unused += ('distill.start',)
    if self.config.distill.start != 'blockwise':
      unused += ('blockwise.',)
    return {name: value for name, value in values.items() if not name.startswith(unused)}


class _RunValues(TypedDict):
  """The schema of a run in a JSON file."""

  name: str
  config: dict[str, Any]
  facts: Facts
  parameters: Annotated[int, Meta(ge=0)]
  multiply_adds: Annotated[int, Meta(ge=0)] | None
  epochs_done: metrics.Count
  epochs: list[metrics.Count]
  test_errors: list[metrics.Percent]
  starts: list[dict[str, Any]]


class _RunsValues(TypedDict):
  """The schema of a JSON file of runs."""

  runs: list[_RunValues]


def collect_runs(folder: str | os.PathLike, trust_code: bool = False) -> list[Run]:
  """Reads every run in a folder of workdirs.

  Args:
    folder: folder that holds the workdirs, at any depth.
    trust_code: whether a user-defined network is loaded where the run has not recorded what it costs.

  Returns:
    The runs, teachers first.

  Raises:
    UserError: if no run is finished, or a file is damaged.
  """
  workdirs = Workdir.find(folder)
  names = {
    _real(workdir.path): (
      str(workdir.path.relative_to(folder)) if workdir.path != Path(folder) else _real(workdir.path).name
    )
    for workdir in workdirs
  }
  runs = [run for workdir in workdirs if (run := _read_workdir(workdir, names, trust_code))]
  return _teachers_first(runs, folder, 'expected a folder of workdirs')


def _read_workdir(workdir: Workdir, names: dict[Path, str], trust_code: bool) -> Run | None:
  """Reads the run in a workdir; None if it has not begun, and if its blocks learn alone, which makes no network.

  `names` holds the name of every run by absolute path.
  """
  config, records, starts = workdir.config, workdir.records, workdir.starts
  if config.distill.blockwise or not (starts or records):
    return None
  if config.distill.teacher:
    config.distill.teacher = _teacher_name(config.distill.teacher, names)
  try:
    facts = Facts.from_json(starts[-1]['data'])
    evaluated = [(record['epoch'], record['test_error']) for record in records if 'test_error' in record]
    epochs_done = records[-1]['epoch'] if records else 0
    # A later start at the last step found nothing left to do.
    starts = [
      {name: value for name, value in start.items() if name not in ('config', 'data', 'functions', 'cost')}
      for i, start in enumerate(starts)
      if not i or not records or start['step'] < records[-1]['step']
    ]
  except (IndexError, KeyError, TypeError) as error:
    path = workdir.path / provenance.FILE
    raise UserError(
      f'{path} or {metrics.FILE}: not those of a run of this version ({error!r}): expected what training writes'
    ) from error
  cost = workdir.cost
  if cost is None:
    workdir.check_code(config.model.network, trust_code)
    model = create_model(config.model, facts.num_classes, image_shape=facts.image_shape)
    cost = counting.count_cost(model, facts.image_shape)
  epochs, test_errors = zip(*evaluated, strict=True) if evaluated else ((), ())
  return Run(
    names[_real(workdir.path)],
    config,
    facts,
    cost.parameters,
    cost.multiply_adds,
    epochs_done,
    epochs,
    test_errors,
    tuple(starts),
  )


def _teacher_name(teacher: str, names: dict[Path, str]) -> str:
  """Names the run of the teacher at a path; returns the path if no run is it.

  If nothing is at the path, the folder of runs was moved: the teacher is then the one run whose path shares the most
  trailing parts with it.
  """
  path = Path(teacher)
  if _real(path) in names or os.path.exists(path):
    return names.get(_real(path), teacher)

  def shared_parts(workdir: Path) -> int:
    pairs = zip(reversed(path.parts), reversed(workdir.parts), strict=False)
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))

  most = max(map(shared_parts, names))
  nearest = [name for workdir, name in names.items() if shared_parts(workdir) == most]
  return nearest[0] if most and len(nearest) == 1 else teacher


def _real(path: Path) -> Path:
  """Returns the path without links; `Path.resolve` raises for links in a circle."""
  return Path(os.path.realpath(path))


def write_runs(runs: list[Run], path: str | os.PathLike) -> None:
  """Writes runs to a JSON file, a line for each."""
  values = [dataclasses.asdict(dataclasses.replace(run, config=config_lib.to_json(run.config))) for run in runs]
  files.write_atomically(
    path, '{"runs": [\n' + ',\n'.join(json.dumps(value, allow_nan=False) for value in values) + '\n]}\n'
  )


def read_runs(path: str | os.PathLike, trust_code: bool = False) -> list[Run]:
  """Reads the runs of a folder of workdirs, or of a JSON file that `write_runs` wrote.

  Args:
    path: the folder or the file.
    trust_code: see `collect_runs`; what a file says is counted already.

  Returns:
    The runs, teachers first.

  Raises:
    UserError: if nothing is at the path, no run is finished, or a file is damaged.
  """
  if not Path(path).exists():
    raise UserError(f'{path}: no such file or folder: expected a folder of workdirs, or the JSON of --json')
  if Path(path).is_dir():
    return collect_runs(path, trust_code)
  expected = 'the JSON that --json writes'
  values = json_files.read_json(path, _RunsValues, expected)['runs']
  runs: dict[str, Run] = {}
  for i, run_values in enumerate(values):
    try:
      run = _from_json(run_values)
      if run.name in runs:
        raise ValueError(f'a second run {shown(run.name)}')
    except (ValueError, UserError) as error:
      raise UserError(f'{path}: damaged ({error} - at `$.runs[{i}]`): expected {expected}') from error
    runs[run.name] = run
  return _teachers_first(list(runs.values()), path, f'expected {expected}')


def _from_json(values: _RunValues) -> Run:
  """Makes a run of its values. Raises UserError for its config, and ValueError where its numbers do not agree."""
  config = config_lib.from_json(values['config'])
  check_model(config.model, load=False)
  epochs, test_errors, done = tuple(values['epochs']), tuple(values['test_errors']), values['epochs_done']
  if len(epochs) != len(test_errors) or list(epochs) != sorted(set(epochs)) or max(epochs, default=0) > done:
    raise ValueError(f'{len(test_errors)} test errors at epochs {shown(epochs)} of {done}')
  facts, parameters, multiply_adds = (
    Facts.from_json(cast(dict[str, Any], values['facts'])),
    values['parameters'],
    values['multiply_adds'],
  )
  starts = tuple(values['starts'])
  return Run(values['name'], config, facts, parameters, multiply_adds, done, epochs, test_errors, starts)


def _teachers_first(runs: list[Run], source: str | os.PathLike, expected: str) -> list[Run]:
  """Sorts runs, teachers first. Raises UserError if none is finished."""
  if not any(run.finished for run in runs):
    raise UserError(f'{source}: no finished run in it: {expected}')
  teachers = {run.config.distill.teacher for run in runs}
  return sorted(runs, key=lambda run: run.name not in teachers)
