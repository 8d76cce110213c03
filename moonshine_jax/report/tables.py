"""Runs as rows of networks: Tables 3 and 4 of the paper beside what it printed, as Markdown and CSV."""

import csv
import dataclasses
import io
import statistics
from collections.abc import Collection, Sequence
from typing import Any

from moonshine_jax import paper
from moonshine_jax.data import sources
from moonshine_jax.models import factory
from moonshine_jax.report.runs import Run

REGIMES = ('none', 'KD', 'AT', 'KD+AT')


@dataclasses.dataclass(frozen=True)
class Cell:
  """What a network came to in one way of learning.

  Attributes:
    runs: of the network that learned so.
    paper: the error that the paper printed, in percent, if any.
  """

  runs: tuple[Run, ...] = ()
  paper: float | None = None

  @property
  def finished(self) -> list[Run]:
    return [run for run in self.runs if run.finished]

  @property
  def mean(self) -> float | None:
    """Of the errors after the last epoch."""
    return statistics.mean(run.error for run in self.finished) if self.finished else None

  @property
  def spread(self) -> float | None:
    """Their sample standard deviation."""
    return statistics.stdev(run.error for run in self.finished) if len(self.finished) > 1 else None

  @property
  def difference(self) -> float | None:
    """From the paper's, positive where ours is the greater error."""
    return self.mean - self.paper if self.finished and self.paper is not None else None

  @property
  def best(self) -> float | None:
    """The mean of each run's lowest test error. It was chosen by the test set: never the result."""
    return statistics.mean(min(run.test_errors) for run in self.finished) if self.finished else None

  @property
  def text(self) -> str:
    """'5.06 ± 0.12 (3)': mean, spread and number of finished runs."""
    parts = []
    if self.finished:
      spread = f' ± {self.spread:.2f}' if self.spread is not None else ''
      parts.append(f'{self.mean:.2f}{spread} ({len(self.finished)})')
    if unfinished := len(self.runs) - len(self.finished):
      parts.append(f'unfinished ({unfinished})')
    return ', '.join(parts) or 'missing'


@dataclasses.dataclass(frozen=True)
class Row:
  """A network, of one recipe.

  Attributes:
    network: its name, as 'WRN-40-2'.
    block: the notation of its blocks.
    teacher: whether it is the students' teacher.
    variant: the fields of the recipe, the loss apart, in which the rows of a table differ, as 'epochs=20'; often empty.
    parameters: as the paper counts them.
    multiply_adds: for one image; None where they are not counted, for want of runs too.
    cells: by way of learning, as the table's columns; a teacher's are of 'none' alone.
  """

  network: str
  block: str
  teacher: bool
  variant: str
  parameters: int
  multiply_adds: int | None
  cells: dict[str, Cell]

  @property
  def name(self) -> str:
    return self.network + (' (teacher)' if self.teacher else '') + (f', {self.variant}' if self.variant else '')


@dataclasses.dataclass(frozen=True)
class Table:
  """The networks of one data set.

  Attributes:
    data: the name of the data set.
    title: as 'Table 3: test error on CIFAR-10'.
    ways: how the networks learned, the columns: the regimes, as 'KD', and where the losses of a regime's runs differ,
      with the fields in which they do, as 'KD, kd_form=hinton'.
    rows: the teacher first, then networks that the paper has not, then as in the paper.
    runs: all that it is made of, finished or not.
    printed: whether the paper has this table.
  """

  data: str
  title: str
  ways: tuple[str, ...]
  rows: tuple[Row, ...]
  runs: tuple[Run, ...]
  printed: bool

  @property
  def notes(self) -> list[str]:
    """Sentences without which the numbers would be read wrongly."""
    found = [
      'Errors are top-1 test errors in percent after the last epoch: mean ± sample standard deviation '
      '(number of runs). The best epoch was chosen by the test set: it is shown beside the result and is not '
      'the result.'
    ]
    if self.printed:
      found += _recipe_notes(self.runs) + [
        f'The paper prints {printed:,} parameters for {block}, which has {true:,}.'
        for (block, printed), true in paper.MISPRINTED_PARAMETERS.items()
        if any(row.parameters == printed for row in paper.TABLES[self.data][2])
      ]
    unfinished = [
      f'{run.name} (epoch {run.epochs_done} of {run.config.epochs})' for run in self.runs if not run.finished
    ]
    return found + ([f'Unfinished: {", ".join(unfinished)}.'] if unfinished else [])


def _recipe_notes(runs: Sequence[Run]) -> list[str]:
  differences = sorted(
    {
      f'{name} {run.recipe[name]!r} (paper: {value!r})'
      for run in runs
      for name, value in paper.RECIPE.items()
      if run.recipe.get(name, value) != value
    }
  )
  return [f"Not the paper's recipe: {'; '.join(differences)}."] if differences else []


def make(runs: Sequence[Run]) -> list[Table]:
  """A table for each data set. Runs of different recipes, by whatever field of the config, share no cell."""
  tables = []
  for data in sorted({run.config.data.name for run in runs}):
    own = tuple(run for run in runs if run.config.data.name == data)
    number, title, printed = paper.TABLES.get(data, (None, sources.title(data), ()))
    title = f'Table {number}: test error on {title}' if number else f'Test error on {title}'
    ways = _ways(own)
    ordered = _in_order(ways.values())
    tables.append(Table(data, title, ordered, tuple(_rows(own, ways, ordered, printed)), own, bool(printed)))
  return tables


def _ways(runs: Sequence[Run]) -> dict[str, str]:
  """How each run learned, by its name, as `Table` has it."""
  ways = {}
  for regime in {run.regime for run in runs}:
    differences = _differences([run for run in runs if run.regime == regime], of_loss=True)
    ways |= {name: f'{regime}, {fields}' if fields else regime for name, fields in differences.items()}
  return ways


def regime_of(way: str) -> str:
  """'KD' of 'KD, kd_form=hinton'."""
  return way.partition(',')[0]


def _in_order(ways: Collection[str]) -> tuple[str, ...]:
  """Each way once, by regime; those of the paper are there also where nothing was trained by them."""
  ordered = []
  for regime in REGIMES:
    found = dict.fromkeys(way for way in ways if regime_of(way) == regime)
    ordered += found or ([regime] if regime != 'KD+AT' else [])
  return tuple(ordered)


def _rows(runs: Sequence[Run], ways: dict[str, str], ordered: Sequence[str], printed: Sequence[paper.Row]) -> list[Row]:
  names, teachers = network_names(runs), {run.config.distill.teacher for run in runs}

  def is_teacher(run):
    first_printed = printed and (names[run.name], run.block) == (printed[0].network, printed[0].block)
    return run.name in teachers or bool(first_printed) and run.regime == 'none'

  variants = {}
  for kind in True, False:
    variants |= _differences([run for run in runs if is_teacher(run) == kind], of_loss=False)
  by_row: dict[tuple, list[Run]] = {}
  for i, row in enumerate(printed):  # the paper's order, its networks without a run as well
    by_row[(row.network, row.block, i == 0, '')] = []
  for run in runs:
    by_row.setdefault((names[run.name], run.block, is_teacher(run), variants[run.name]), []).append(run)
  papers = {(row.network, row.block): row for row in printed}
  order = {network: i for i, network in enumerate(papers)}
  rows = []
  for key, own in sorted(by_row.items(), key=lambda item: (not item[0][2], order.get(item[0][:2], -1))):
    paper_row = papers.get(key[:2])
    if not own and any(other[:3] == key[:3] for other in by_row if other != key):
      continue  # there are runs of it, all of recipes with a name
    paper_errors = dict(zip(REGIMES, paper_row[4:], strict=False)) if paper_row else {}
    cells = {}
    for way in ordered:
      of_way = tuple(run for run in own if ways[run.name] == way)
      if of_way or not key[2] or way == 'none':
        cells[way] = Cell(of_way, paper_errors.get(regime_of(way)))
    parameters = own[0].parameters if own else paper.MISPRINTED_PARAMETERS.get(paper_row[2:4], paper_row.parameters)
    rows.append(Row(*key, parameters, own[0].multiply_adds if own else None, cells))
  return rows


def network_names(runs: Sequence[Run]) -> dict[str, str]:
  """What the network of each run is called, by the run's name: a function's by that, unless two share it."""
  own = {run.config.model.network: factory.name(run.config.model) for run in runs if factory.is_user(run.config.model)}
  shared = {network for network, name in own.items() if list(own.values()).count(name) > 1}
  return {
    run.name: run.config.model.network if run.config.model.network in shared else factory.name(run.config.model)
    for run in runs
  }


def _differences(runs: Sequence[Run], of_loss: bool) -> dict[str, str]:
  """For each run, by name, the fields in which the recipes differ: those of the loss, or all others."""
  recipes = {
    run.name: {name: value for name, value in run.recipe.items() if name.startswith('distill.') == of_loss}
    for run in runs
  }
  differing = sorted(
    {name for recipe in recipes.values() for name, value in recipe.items() if value != recipes[runs[0].name][name]}
  )
  return {
    run: ', '.join(f'{name.rpartition(".")[2]}={recipe[name]}' for name in differing) for run, recipe in recipes.items()
  }


def table(runs: Sequence[Run]) -> str:
  """The Markdown table of the runs that there are: test errors as mean ± sample standard deviation (number of runs)."""
  texts = []
  tables = make(runs)
  for each in tables:
    ways = [way for way in each.ways if any(way in row.cells and row.cells[way].runs for row in each.rows)]
    lines = [['Network', 'Block', 'Parameters', 'Multiply-adds', *(f'Error, {way}' for way in ways)]]
    lines += [
      [*_network(row), *(row.cells[way].text if way in row.cells else '-' for way in ways)]
      for row in each.rows
      if any(cell.runs for cell in row.cells.values())
    ]
    texts.append((f'{each.title}\n\n' if len(tables) > 1 else '') + _markdown(lines))
  return '\n\n'.join(texts)


def markdown(table: Table) -> str:
  """The whole table with its title and notes, the paper's errors beside ours."""
  lines = [
    [
      'Network',
      'Block',
      'Parameters',
      'Multiply-adds',
      *(heading for way in table.ways for heading in (f'Error, {way}', *columns(table))),
    ]
  ]
  for row in table.rows:
    lines.append([*_network(row), *(text for way in table.ways for text, _ in values(table, row, way))])
  return '\n\n'.join([f'# {table.title}', _markdown(lines), *table.notes]) + '\n'


def columns(table: Table) -> list[str]:
  """The headings beside each way's error."""
  return [*(['Paper', 'Difference'] if table.printed else []), 'Best epoch, not the result']


def values(table: Table, row: Row, way: str) -> list[tuple[str, float | None]]:
  """A way's error and its `columns`, each as text and as a number to sort by."""
  cell = row.cells.get(way)
  if cell is None:
    return [('-', None)] * (1 + len(columns(table)))
  printed = [(_number(cell.paper, '.2f'), cell.paper), (_number(cell.difference, '+.2f'), cell.difference)]
  return [(cell.text, cell.mean), *(printed if table.printed else []), (_number(cell.best, '.2f'), cell.best)]


def _network(row: Row) -> list[str]:
  return [row.name, row.block, f'{row.parameters:,}', _number(row.multiply_adds, ',')]


def _number(value: float | None, form: str) -> str:
  return '-' if value is None else f'{value:{form}}'


def _markdown(lines: list[list[str]]) -> str:
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  lines = [lines[0], ['-' * width for width in widths], *lines[1:]]
  return '\n'.join(
    '| ' + ' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + ' |' for line in lines
  )


def write_csv(table: Table) -> str:
  """CSV with a line a network and way; numbers unrounded, empty where there is none."""
  file = io.StringIO()
  writer = csv.writer(file, lineterminator='\n')
  writer.writerow(
    [
      'data',
      'network',
      'block',
      'teacher',
      'recipe',
      'parameters',
      'multiply_adds',
      'regime',
      'runs',
      'unfinished',
      'error_mean',
      'error_std',
      'paper_error',
      'difference',
      'best_epoch_error_mean',
    ]
  )
  for row in table.rows:
    for way, cell in row.cells.items():
      counted: list[Any] = [row.block, row.teacher, row.variant, row.parameters, row.multiply_adds]
      writer.writerow(
        [
          table.data,
          row.network,
          *counted,
          way,
          len(cell.finished),
          len(cell.runs) - len(cell.finished),
          cell.mean,
          cell.spread,
          cell.paper,
          cell.difference,
          cell.best,
        ]
      )
  return file.getvalue()
