"""Writes the report of runs into a folder: Tables 3 and 4 of the paper and its Figures 3 and 4, from our runs.

A table is written as Markdown and CSV, a figure as SVG, and all of them as one page, index.html.
"""

import os
import re
from pathlib import Path
from types import ModuleType
from typing import Annotated, NamedTuple, NotRequired, TypedDict

from msgspec import Meta

from moonshine_jax.errors import UserError, warn
from moonshine_jax.models.blocks import Block
from moonshine_jax.report import html, recipes, table_formats, tables
from moonshine_jax.report.runs import Run
from moonshine_jax.report.tables import Table
from moonshine_jax.runtime import files, json_files


class _Latency(TypedDict):
  network: str
  latency: Annotated[float, Meta(gt=0, le=1e6)]


class _LatencyFlags(TypedDict):
  image_size: Annotated[int, Meta(ge=1)]


class _LatencyEnvironment(TypedDict):
  device: str
  processor: NotRequired[str | None]


class _LatenciesValues(TypedDict):
  """The schema of a JSON file of latencies, in seconds."""

  environment: _LatencyEnvironment
  image_shape: NotRequired[Annotated[list[Annotated[int, Meta(ge=1)]], Meta(min_length=1)]]
  flags: NotRequired[_LatencyFlags]
  rows: list[_Latency]


class Latencies(NamedTuple):
  """The latencies of networks on one device.

  Attributes:
    device: name of the device on which they were measured.
    image_size: side of the images, in pixels.
    milliseconds: milliseconds an image by network, named as 'WRN-40-2 G(N/8)'.
  """

  device: str
  image_size: int
  milliseconds: dict[str, float]


def write_report(
  source: str | os.PathLike, runs: list[Run], out: str | os.PathLike, latencies: Latencies | None
) -> None:
  """Writes the report into a folder; without Matplotlib it has no figures, and a warning says so.

  Args:
    source: folder or file that the runs come from, which the page names.
    runs: runs of any data sets, finished or not.
    out: folder to write, which is made if it is not there.
    latencies: latencies for a figure of error against latency, or None.

  Raises:
    UserError: if the folder cannot be written.
  """
  with files.writing(out):
    Path(out).mkdir(parents=True, exist_ok=True)
  tables_with_figures = []
  made = tables.make_tables(runs)
  for table, stem in zip(made, file_stems([table.data for table in made]), strict=True):
    figures = draw_figures(table, latencies)
    for (name, _), svg in figures.items():
      files.write_atomically(Path(out) / f'{stem}-{name}.svg', svg)
    files.write_atomically(Path(out) / f'{stem}.md', table_formats.table_markdown(table))
    files.write_atomically(Path(out) / f'{stem}.csv', table_formats.table_csv(table))
    tables_with_figures.append((table, {caption: svg for (_, caption), svg in figures.items()}))
  if published := table_formats.published_markdown(runs):
    files.write_atomically(Path(out) / 'published.md', published)
  files.write_atomically(Path(out) / 'index.html', html.render_page(str(source), tables_with_figures))


def file_stems(names: list[str]) -> list[str]:
  """Returns names for the files of data sets, each another one; a user-defined data set is named by its path."""
  stems: list[str] = []
  for name in names:
    stem = re.sub('[^A-Za-z0-9.]+', '-', name)[-100:].strip('-.') or 'data'
    while stem in stems:
      stem += '-again'
    stems.append(stem)
  return stems


def draw_figures(table: Table, latencies: Latencies | None) -> dict[tuple[str, str], str]:
  """Draws a table's figures: error against each cost, and learning curves.

  Args:
    table: table of test errors.
    latencies: latencies, or None; a warning says if they are of images of another size than the table's.

  Returns:
    SVG by (name, caption); empty without Matplotlib, and a warning says so.
  """
  try:
    from moonshine_jax.report import figures
  except ModuleNotFoundError as error:
    if error.name != 'matplotlib':
      raise
    warn("Matplotlib is not installed, so there are no figures: pip install 'moonshine-jax[report]'")
    return {}

  drawn = _draw_costs(figures, table, latencies) if any(run.finished for run in table.runs) else {}
  caption = 'Test error by epoch of every run, log axis. The last epoch is the result.'
  drawn['learning-curves', caption] = figures.learning_curves(table)
  return drawn


def _draw_costs(figures: ModuleType, table: Table, latencies: Latencies | None) -> dict[tuple[str, str], str]:
  """Draws error against each cost, for `draw_figures`, of a table with a finished run."""
  method = _method_to_draw(table)
  method_text = 'no distillation' if method == 'none' else method
  costs = {
    'parameters': ('parameters (millions)', lambda row: row.parameters / 1e6),
    'multiply-adds': ('multiply-adds an image (millions)', lambda row: (row.multiply_adds or 0) / 1e6),
  }
  image_size = table.runs[0].facts.image_shape[0]
  if latencies and latencies.image_size == image_size:
    costs['latency'] = (
      f'milliseconds an image, one at a time, on {latencies.device}',
      lambda row: latencies.milliseconds.get(f'{row.network} {row.block}'),
    )
  elif latencies:
    warn(f'--latency: of images with a side of {latencies.image_size}: expected {image_size}, that of {table.data}')
  drawn = {}
  for name, (label, cost) in costs.items():
    if points := figures.cost_points(table, method, cost):
      caption = (
        f"Test error by {method_text} against {label}, log axis, in the form of the paper's Figures 3 and 4. The grey "
        'line is the Pareto front: no network on it has another below it and to its left.'
      )
      drawn[name, caption] = figures.cost_figure(points, f'{table.title}, {method_text}', label)
  return drawn


def _method_to_draw(table: Table) -> str:
  """Chooses the method for the figures of error against cost.

  The paper's figures show attention transfer, so it comes first if there is any. If the losses of the regime's runs
  differ, it is the method by which most networks learned.
  """
  regime = next(
    name for name in ('AT', 'KD+AT', 'KD', 'none') if any(run.regime == name and run.finished for run in table.runs)
  )

  def networks_finished(method: str) -> int:
    return sum(method in row.cells and bool(row.cells[method].finished) for row in table.rows)

  return max((method for method in table.methods if recipes.regime_of(method) == regime), key=networks_finished)


def read_latencies(path: str | os.PathLike) -> Latencies:
  """Reads the JSON of latencies that `benchmarks.inference` or the command `cost` wrote.

  Args:
    path: JSON file with latencies in seconds.

  Returns:
    The latencies, in milliseconds.

  Raises:
    UserError: if there is no such file, or it holds something else.
  """
  expected = 'JSON with rows of network and latency, as benchmarks.inference --json writes it'
  try:
    values = json_files.read_json(path, _LatenciesValues, expected)
  except UserError as error:
    raise UserError(f'--latency={error}') from error
  try:
    environment = values['environment']
    return Latencies(
      environment.get('processor') or environment['device']
      if environment['device'] == 'cpu'
      else environment['device'],
      values['image_shape'][0] if 'image_shape' in values else values['flags']['image_size'],
      {_normalise_name(row['network']): 1e3 * row['latency'] for row in values['rows']},
    )
  except KeyError as error:
    raise UserError(f'--latency={path}: damaged (no {error}): expected {expected}') from error
  except ValueError as error:
    raise UserError(f'--latency={path}: damaged ({error}): expected {expected}') from error


def _normalise_name(network: str) -> str:
  """Writes the blocks in a name such as 'WRN-40-2 G( N/8)' as `Block` writes them: 'WRN-40-2 G(N/8)'."""
  architecture, _, block = network.partition(' ')
  return f'{architecture} {",".join(map(str, Block.parse_list(block)))}'
