"""The report of a folder of runs, in the form of the paper's Tables 3 and 4 and its Figures 3 and 4.

  python -m moonshine_jax.report DIR [--out=DIR/report] [--latency=FILE] [--json=FILE]

DIR may also be the JSON file that --json writes. Prints the table as Markdown; writes it whole, beside what the paper
printed, as Markdown, CSV and a page, index.html, with the figures, which are files as well.

  python -m moonshine_jax.report attention --workdirs=TEACHER,STUDENT --images=0,1,2 --out=FILE.png

draws attention maps (`attention.py`).
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

from absl import flags

from moonshine_jax.errors import UserError, run_command, warn
from moonshine_jax.models.blocks import Block
from moonshine_jax.report import html, tables
from moonshine_jax.report import runs as runs_lib
from moonshine_jax.report.tables import Table
from moonshine_jax.runtime import files


class Latencies(NamedTuple):
  """Milliseconds an image by network, as 'WRN-40-2 G(N/8)': where they were measured, on images of which side."""

  device: str
  image_size: int
  milliseconds: dict[str, float]


def write(
  source: str | os.PathLike, runs: list[runs_lib.Run], out: str | os.PathLike, latencies: Latencies | None
) -> None:
  """Writes the report into a folder. Without Matplotlib it has no figures, and a warning says so."""
  with files.writing(out):
    Path(out).mkdir(parents=True, exist_ok=True)
  pages = []
  for each in tables.make(runs):
    stem = re.sub('[^A-Za-z0-9.]+', '-', each.data)[-100:].strip('-')  # of a user's own data it is a path
    drawn = draw(each, latencies)
    for (name, _), svg in drawn.items():
      files.write(Path(out) / f'{stem}-{name}.svg', svg)
    files.write(Path(out) / f'{stem}.md', tables.markdown(each))
    files.write(Path(out) / f'{stem}.csv', tables.write_csv(each))
    pages.append((each, {caption: svg for (_, caption), svg in drawn.items()}))
  files.write(Path(out) / 'index.html', html.write(str(source), pages))


def draw(each: Table, latencies: Latencies | None) -> dict[tuple[str, str], str]:
  """The SVG of a table's figures, by name and caption; none without Matplotlib."""
  try:
    from moonshine_jax.report import figures
  except ModuleNotFoundError as error:
    if error.name != 'matplotlib':
      raise
    warn("Matplotlib is not installed, so there are no figures: pip install 'moonshine-jax[report]'")
    return {}

  def finished(way):
    return sum(way in row.cells and bool(row.cells[way].finished) for row in each.rows)

  # As the paper's, by attention transfer where there is any; where its runs differ, as most networks learned.
  regime = next(
    name for name in ('AT', 'KD+AT', 'KD', 'none') if any(run.regime == name and run.finished for run in each.runs)
  )
  way = max((way for way in each.ways if tables.regime_of(way) == regime), key=finished)
  by = 'no distillation' if way == 'none' else way
  costs = {
    'parameters': ('parameters (millions)', lambda row: row.parameters / 1e6),
    'multiply-adds': ('multiply-adds an image (millions)', lambda row: (row.multiply_adds or 0) / 1e6),
  }
  size = each.runs[0].facts.image_shape[0]
  if latencies and latencies.image_size == size:
    costs['latency'] = (
      f'milliseconds an image, one at a time, on {latencies.device}',
      lambda row: latencies.milliseconds.get(f'{row.network} {row.block}'),
    )
  elif latencies:
    warn(f'--latency: of images with a side of {latencies.image_size}: expected {size}, that of {each.data}')
  drawn = {}
  for name, (label, cost) in costs.items():
    if points := figures.points(each, way, cost):
      caption = (
        f"Test error by {by} against {label}, log axis, in the form of the paper's Figures 3 and 4. The grey "
        'line is the Pareto front: no network on it has another below it and to its left.'
      )
      drawn[name, caption] = figures.cost_figure(points, f'{each.title}, {by}', label)
  caption = 'Test error by epoch of every run, log axis. The last epoch is the result.'
  drawn['learning-curves', caption] = figures.learning_curves(each)
  return drawn


def read_latencies(path: str | os.PathLike) -> Latencies:
  """Those of a file that `benchmarks.inference` or `cost` wrote, in seconds. Raises UserError."""
  try:
    values = json.loads(Path(path).read_text())
    where = values['environment']
    return Latencies(
      where['processor'] if where['device'] == 'cpu' else where['device'],
      values['image_shape'][0] if 'image_shape' in values else values['flags']['image_size'],
      {_normal(row['network']): 1e3 * row['latency'] for row in values['rows']},
    )
  except (OSError, KeyError, TypeError, ValueError) as error:
    raise UserError(
      f'--latency={path}: {error!r}: expected JSON with rows of network and latency, as '
      'benchmarks.inference --json writes it'
    ) from error


def _normal(network: str) -> str:
  """'WRN-40-2 G(N/8)', its block as `Block` writes it."""
  architecture, _, block = network.partition(' ')
  return f'{architecture} {",".join(map(str, Block.parse_list(block)))}'


def main(source: str) -> None:
  given = flags.FLAGS
  latencies = read_latencies(given.latency) if given.latency else None
  runs = runs_lib.read(source)
  path = Path(source)
  out = given.out or (path / 'report' if path.is_dir() else path.with_name(f'{path.stem}-report'))
  print(tables.table(runs))
  if given.json:
    runs_lib.write(runs, given.json)
  write(source, runs, out, latencies)


if __name__ == '__main__' and sys.argv[1:2] == ['attention']:
  from moonshine_jax.report import attention_maps  # with Orbax, which a report does without

  del sys.argv[1]
  attention_maps.define_flags()
  run_command(attention_maps.main)
elif __name__ == '__main__':  # the flags too: what imports this file has flags of these names
  flags.DEFINE_string('out', None, 'Folder for the report, in place of DIR/report (FILE-report for FILE.json).')
  flags.DEFINE_string('latency', None, 'JSON of latencies, as benchmarks.inference --json writes it.')
  flags.DEFINE_string('json', None, 'File to write the runs to, from which the report can be made again.')
  run_command(main, 'DIR')
