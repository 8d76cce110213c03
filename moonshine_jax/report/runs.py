"""The runs of a folder as values, and their export as one JSON file, from which a report needs no workdirs."""

import dataclasses
import itertools
import json
import os
from pathlib import Path
from typing import Any

import ml_collections

from moonshine_jax import config as config_lib
from moonshine_jax.cost import counting
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError
from moonshine_jax.models.blocks import Block
from moonshine_jax.models.factory import create_model
from moonshine_jax.runtime import files
from moonshine_jax.workdir import metrics, provenance
from moonshine_jax.workdir import workdir as workdir_lib

# Fields that do not tell one recipe from another: the network and its seeds, which a table shows elsewhere, and how
# often a run looks at itself.
NOT_RECIPE = workdir_lib.MAY_DIFFER | {
  'seed',
  'model.seed',
  'model.network',
  'model.depth',
  'model.width',
  'model.block',
  'eval_every',
  'checkpoint_every',
  'distill.students',
}


@dataclasses.dataclass(frozen=True)
class Run:
  """What a report needs of one run.

  Attributes:
    name: of its workdir, within the folder of runs.
    config: of the run; its `distill.teacher` is the teacher's `name`, or a path where that is in no folder of ours.
    facts: of its data.
    parameters: of its network, counted as in the paper.
    multiply_adds: for one image; None where they cannot be counted.
    epochs_done: of `config.epochs`.
    epochs: those after which it was evaluated.
    test_errors: as many, in percent.
    starts: when, how and where it was started, as `environment` records it.
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
    return self.epochs_done >= self.config.epochs and bool(self.test_errors)

  @property
  def error(self) -> float:
    """The result: the test error after the last epoch."""
    return self.test_errors[-1]

  @property
  def regime(self) -> str:
    return config_lib.regime(self.config)

  @property
  def block(self) -> str:
    """The block's notation as `Block` writes it."""
    return ','.join(str(block) for block in Block.parse_list(self.config.model.block))

  @property
  def recipe(self) -> dict[str, Any]:
    """The config's values that a result depends on, beside the network and the seeds, by their dotted names."""
    values = {name: value for name, value in config_lib.flatten(self.config).items() if name not in NOT_RECIPE}
    unused = {
      'none': ('distill.',),
      'KD': ('distill.beta', 'distill.at_form'),
      'AT': ('distill.alpha', 'distill.temperature', 'distill.kd_form'),
    }.get(self.regime, ())
    return {name: value for name, value in values.items() if not name.startswith(unused)}


def collect(folder: str | os.PathLike) -> list[Run]:
  """All runs in a folder, teachers first. Raises UserError where none is finished or a file is damaged."""
  paths = sorted(path.parent for path in Path(folder).glob(f'**/{workdir_lib.FILE}'))
  names = {
    path.resolve(): str(path.relative_to(folder)) if path != Path(folder) else path.resolve().name for path in paths
  }
  runs = [run for path in paths if (run := _read(path, names))]
  return _checked(runs, folder, 'expected a folder of workdirs')


def _read(workdir: Path, names: dict[Path, str]) -> Run | None:
  """The run in a workdir; None where it has not begun."""
  config, records = workdir_lib.read(workdir), metrics.read(workdir)
  path = workdir / provenance.FILE
  starts = files.read_records(path)
  if not starts and not records:
    return None
  if config.distill.teacher:
    config.distill.teacher = _teacher(config.distill.teacher, names)
  try:
    facts = Facts.from_json(starts[-1]['data'])
    evaluated = [(record['epoch'], record['test_error']) for record in records if 'test_error' in record]
    epochs_done = records[-1]['epoch'] if records else 0
    # A later start at the last step found nothing left to do.
    starts = [
      {name: value for name, value in start.items() if name not in ('config', 'data')}
      for i, start in enumerate(starts)
      if not i or not records or start['step'] < records[-1]['step']
    ]
  except (IndexError, KeyError, TypeError) as error:
    raise UserError(
      f'{path} or {metrics.FILE}: not those of a run of this version ({error!r}): expected what training writes'
    ) from error
  counted = counting.count(
    create_model(config.model, facts.num_classes, image_shape=facts.image_shape), facts.image_shape
  )
  epochs, test_errors = zip(*evaluated, strict=True) if evaluated else ((), ())
  return Run(
    names[workdir.resolve()],
    config,
    facts,
    counted.parameters,
    counted.multiply_adds,
    epochs_done,
    epochs,
    test_errors,
    tuple(starts),
  )


def _teacher(given: str, names: dict[Path, str]) -> str:
  """The name of the teacher's run. Where its folder was moved, the run whose path ends most like the one given."""
  path = Path(given)
  if path.resolve() in names or path.exists():
    return names.get(path.resolve(), given)

  def alike(other):
    pairs = zip(reversed(path.parts), reversed(other.parts), strict=False)
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))

  most = max(map(alike, names))
  nearest = [name for other, name in names.items() if alike(other) == most]
  return nearest[0] if most and len(nearest) == 1 else given


def write(runs: list[Run], path: str | os.PathLike) -> None:
  """Writes the runs as JSON, one a line."""
  values = [dataclasses.asdict(dataclasses.replace(run, config=config_lib.to_json(run.config))) for run in runs]
  files.write(path, '{"runs": [\n' + ',\n'.join(json.dumps(each) for each in values) + '\n]}\n')


def read(path: str | os.PathLike) -> list[Run]:
  """The runs of a file of `write`, or of a folder. Raises UserError."""
  if not Path(path).exists():
    raise UserError(f'{path}: no such file or folder: expected a folder of workdirs, or the JSON of --json')
  if Path(path).is_dir():
    return collect(path)
  try:
    runs = [_from_json(values) for values in json.loads(Path(path).read_text())['runs']]
  except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
    raise UserError(f'{path}: damaged ({error}): expected the JSON that --json writes') from error
  return _checked(runs, path, 'expected the JSON that --json writes')


def _from_json(values: dict[str, Any]) -> Run:
  run = Run(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
  config = config_lib.from_json(run.config)
  config_lib.check(config)
  return dataclasses.replace(run, config=config, facts=Facts.from_json(run.facts))


def _checked(runs: list[Run], where: str | os.PathLike, expected: str) -> list[Run]:
  if not any(run.finished for run in runs):
    raise UserError(f'{where}: no finished run in it: {expected}')
  teachers = {run.config.distill.teacher for run in runs}
  return sorted(runs, key=lambda run: run.name not in teachers)
