"""One table of a folder of runs, in the form of the paper's Tables 3 and 4: `python -m moonshine_jax.report DIR`."""

import dataclasses
import os
import statistics
from pathlib import Path

from moonshine_jax import checkpoint, config, cost, metrics
from moonshine_jax.errors import UserError, run_command
from moonshine_jax.models import create_model

REGIMES = ('none', 'KD', 'AT', 'KD+AT')


@dataclasses.dataclass(frozen=True)
class Network:
  """A row of the table. `parameters` are counted as in the paper, `multiply_adds` for one image."""

  name: str
  block: str
  parameters: int
  multiply_adds: int


def collect(folder: str | os.PathLike) -> dict[Network, dict[str, list[float]]]:
  """The test errors, in percent after the last epoch, of all finished runs in a folder by network and regime.

  Teachers come first. Raises UserError where there is no finished run.
  """
  configs = {}
  for path in sorted(Path(folder).glob(f'**/{config.FILE}')):
    configs[path.parent] = config.read(path.parent)
  teachers = {Path(run.distill.teacher).resolve() for run in configs.values() if run.distill.teacher}
  errors: dict[Network, dict[str, list[float]]] = {}
  for workdir in sorted(configs, key=lambda workdir: workdir.resolve() not in teachers):
    run, records = configs[workdir], metrics.read(workdir)
    if not records or records[-1]['epoch'] < run.epochs:
      continue
    facts = checkpoint.Checkpoints(workdir).metadata().facts
    counted = cost.count(create_model(run.model, facts.num_classes), facts.image_shape)
    name = f'WRN-{run.model.depth}-{run.model.width}' + (' (teacher)' if workdir.resolve() in teachers else '')
    row = Network(name, run.model.block, counted.parameters, counted.multiply_adds)
    errors.setdefault(row, {}).setdefault(config.regime(run), []).append(records[-1]['test_error'])
  if not errors:
    raise UserError(f'{folder}: no finished run in it: expected a folder of workdirs')
  return errors


def table(errors: dict[Network, dict[str, list[float]]]) -> str:
  """The Markdown table of `collect`: test errors as mean ± sample standard deviation (number of runs)."""
  columns = [regime for regime in REGIMES if regime != 'KD+AT' or any(regime in row for row in errors.values())]
  lines = [['Network', 'Block', 'Parameters', 'Multiply-adds', *(f'Error, {regime}' for regime in columns)]]
  for network, by_regime in errors.items():
    lines.append([network.name, network.block, f'{network.parameters:,}', f'{network.multiply_adds:,}',
                  *(_summary(by_regime.get(regime, [])) for regime in columns)])
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  lines.insert(1, ['-' * width for width in widths])
  return '\n'.join(
    '| ' + ' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + ' |' for line in lines)


def _summary(errors: list[float]) -> str:
  if len(errors) < 2:
    return f'{errors[0]:.2f} (1)' if errors else '-'
  return f'{statistics.mean(errors):.2f} ± {statistics.stdev(errors):.2f} ({len(errors)})'


def main(folder: str) -> None:
  print(table(collect(folder)))


if __name__ == '__main__':
  run_command(main, 'DIR')
