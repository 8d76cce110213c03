"""Tables of test errors: runs grouped by network and method, beside Tables 3 and 4 of the paper."""

import dataclasses
import statistics
from collections.abc import Collection, Sequence
from typing import NamedTuple

from moonshine_jax import fields, paper
from moonshine_jax.data import names
from moonshine_jax.report import recipes
from moonshine_jax.report.runs import Run

REGIMES = ('none', 'KD', 'AT', 'KD+AT')


@dataclasses.dataclass(frozen=True)
class Cell:
  """The test errors of one network by one method.

  Attributes:
    runs: runs of the network by this method.
    paper: error that the paper printed, in percent; None if it printed none.
  """

  runs: tuple[Run, ...] = ()
  paper: float | None = None

  @property
  def finished(self) -> list[Run]:
    """The runs that are finished."""
    return [run for run in self.runs if run.finished]

  @property
  def mean(self) -> float | None:
    """The mean of the finished runs' errors after the last epoch, in percent; None without a finished run."""
    return statistics.mean(run.error for run in self.finished) if self.finished else None

  @property
  def spread(self) -> float | None:
    """The sample standard deviation of the errors after the last epoch; None for fewer than 2 finished runs."""
    return statistics.stdev(run.error for run in self.finished) if len(self.finished) > 1 else None

  @property
  def difference(self) -> float | None:
    """The mean error less the paper's error: positive if ours is greater; None if one of the two is missing."""
    mean = self.mean
    return mean - self.paper if mean is not None and self.paper is not None else None

  @property
  def best(self) -> float | None:
    """The mean of each finished run's lowest test error, which was chosen by the test set: never the result."""
    return statistics.mean(min(run.test_errors) for run in self.finished) if self.finished else None

  @property
  def text(self) -> str:
    """The cell as text: '5.06 ± 0.12 (3)' is mean, spread and number of finished runs."""
    parts = []
    if self.finished:
      spread = f' ± {self.spread:.2f}' if self.spread is not None else ''
      parts.append(f'{self.mean:.2f}{spread} ({len(self.finished)})')
    if unfinished := len(self.runs) - len(self.finished):
      parts.append(f'unfinished ({unfinished})')
    return ', '.join(parts) or 'missing'


@dataclasses.dataclass(frozen=True)
class TableRow:
  """A network that was trained by one recipe.

  Attributes:
    network: name of the network, as 'WRN-40-2'.
    block: notation of its blocks.
    teacher: whether the network is the students' teacher.
    variant: the recipe's fields, the loss apart, in which the rows of a table differ, as 'epochs=20'; often empty.
    parameters: number of parameters, as the paper counts them.
    multiply_adds: multiply-adds for one image; None if they are not counted, or the row has no runs.
    cells: cells by method, the table's columns; a teacher has those of its runs, and 'none'.
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
    """The network's name, with the word teacher and the variant if the row has them."""
    return self.network + (' (teacher)' if self.teacher else '') + (f', {self.variant}' if self.variant else '')


@dataclasses.dataclass(frozen=True)
class Table:
  """The networks of one data set.

  Attributes:
    data: name of the data set.
    title: title, as 'Table 3: test error on CIFAR-10'.
    methods: the columns, how the networks learned: a regime, as 'KD'; if the losses of a regime's runs differ, a
      regime with the fields in which they differ, as 'KD, kd_form=hinton'.
    rows: the teacher, then networks that the paper has not, then the paper's networks in its order.
    runs: all runs of the table, finished or not.
    printed: whether the paper has this table.
  """

  data: str
  title: str
  methods: tuple[str, ...]
  rows: tuple[TableRow, ...]
  runs: tuple[Run, ...]
  printed: bool

  @property
  def methods_with_runs(self) -> list[str]:
    """The methods by which at least one run learned."""
    return [method for method in self.methods if any(row.cells.get(method, Cell()).runs for row in self.rows)]

  @property
  def notes(self) -> list[str]:
    """The sentences without which a reader would take the numbers wrongly."""
    notes = [
      'Errors are top-1 test errors in percent after the last epoch: mean ± sample standard deviation '
      '(number of runs). The best epoch was chosen by the test set: it is shown beside the result and is not '
      'the result.'
    ]
    if held_out := [run.name for run in self.runs if run.config.data.held_out]:
      which = 'all' if len(held_out) == len(self.runs) else ', '.join(held_out)
      notes.append(f'No test errors, but of a share of the training split that is held out: {which}.')
    if self.printed:
      notes += _recipe_notes(self.runs) + [
        f'The paper prints {printed:,} parameters for {block}, which has {true:,}.'
        for (block, printed), true in paper.MISPRINTED_PARAMETERS.items()
        if any(row.parameters == printed for row in _printed_table(self.runs)[2])
      ]
    unfinished = [
      f'{run.name} (epoch {run.epochs_done} of {run.config.epochs})' for run in self.runs if not run.finished
    ]
    return notes + ([f'Unfinished: {", ".join(unfinished)}.'] if unfinished else [])


def _recipe_notes(runs: Sequence[Run]) -> list[str]:
  differences = sorted(
    {
      f'{name} {run.recipe[name]!r} (paper: {value!r})'
      for run in runs
      for name, value in fields.COMPARABLE.items()
      if run.recipe.get(name, value) != value
    }
  )
  return [f"Not the paper's recipe: {'; '.join(differences)}."] if differences else []


def make_tables(runs: Sequence[Run]) -> list[Table]:
  """Groups runs into a table for each data set.

  Runs of different recipes share no cell, whichever field of the config differs.

  Args:
    runs: runs of any data sets, finished or not.

  Returns:
    The tables, sorted by the name of the data set.
  """
  tables = []
  for data in sorted({run.config.data.name for run in runs}):
    data_runs = tuple(run for run in runs if run.config.data.name == data)
    number, title, printed = _printed_table(data_runs)
    if all(run.config.data.held_out for run in data_runs):
      title, printed = f'Held-out error on {title}', ()  # the paper has none of these
    else:
      title = f'Table {number}: test error on {title}' if number else f'Test error on {title}'
    method_by_run = recipes.methods(data_runs)
    methods = _sort_methods(method_by_run.values())
    rows = _make_rows(data_runs, method_by_run, methods, printed)
    tables.append(Table(data, title, methods, tuple(rows), data_runs, bool(printed)))
  return tables


def _printed_table(runs: Sequence[Run]) -> tuple[int | None, str, Sequence[paper.PrintedNetwork]]:
  """Returns the number, the title and the networks of the paper's table of a data set; none for other data."""
  data = runs[0].config.data.name
  known = names.known_as(data, runs[0].facts.num_classes)
  return paper.TABLES.get(known, (None, names.title(data), ()))


def _sort_methods(methods: Collection[str]) -> tuple[str, ...]:
  """Sorts methods by regime, each once, and adds the paper's regimes that no run has."""
  ordered: list[str] = []
  for regime in REGIMES:
    of_regime = dict.fromkeys(method for method in methods if recipes.regime_of(method) == regime)
    ordered += of_regime or ([regime] if regime != 'KD+AT' else [])
  return tuple(ordered)


class _RowKey(NamedTuple):
  """What the runs of one row have in common; the attributes are those of `TableRow`."""

  network: str
  block: str
  teacher: bool
  variant: str


def _make_rows(
  runs: Sequence[Run], method_by_run: dict[str, str], methods: Sequence[str], printed: Sequence[paper.PrintedNetwork]
) -> list[TableRow]:
  """Makes the rows of a table; `printed` holds the paper's rows of the data set, if it has any."""
  printed_rows = {(row.network, row.block): row for row in printed}
  paper_order = {network: i for i, network in enumerate(printed_rows)}
  groups = _group_by_row(runs, printed)
  rows = []
  for key, row_runs in sorted(
    groups.items(), key=lambda group: (not group[0].teacher, paper_order.get(group[0][:2], -1))
  ):
    if not row_runs and any(other[:3] == key[:3] for other in groups if other != key):
      continue  # the network's runs are all in rows with a variant
    printed_row = printed_rows.get(key[:2])
    paper_errors = dict(zip(REGIMES, printed_row[4:], strict=False)) if printed_row else {}
    cells = {}
    for method in methods:
      cell_runs = tuple(run for run in row_runs if method_by_run[run.name] == method)
      if cell_runs or not key.teacher or method == 'none':
        cells[method] = Cell(cell_runs, paper_errors.get(recipes.regime_of(method)))
    if row_runs:
      parameters, multiply_adds = row_runs[0].parameters, row_runs[0].multiply_adds
    else:  # only a network of the paper has a row without runs
      parameters, multiply_adds = _true_parameters(printed_rows[key[:2]]), None
    rows.append(TableRow(*key, parameters, multiply_adds, cells))
  return rows


def _true_parameters(printed_row: paper.PrintedNetwork) -> int:
  """Returns the number of parameters of a network of the paper, correct where the paper misprints it."""
  return paper.MISPRINTED_PARAMETERS.get((printed_row.block, printed_row.parameters), printed_row.parameters)


def _group_by_row(runs: Sequence[Run], printed: Sequence[paper.PrintedNetwork]) -> dict[_RowKey, list[Run]]:
  """Groups runs by table row: the paper's networks first, in its order, those without a run as well."""
  names, teachers = recipes.network_names(runs), {run.config.distill.teacher for run in runs}

  def is_teacher(run: Run) -> bool:
    first_printed = printed and (names[run.name], run.block) == (printed[0].network, printed[0].block)
    return run.name in teachers or (bool(first_printed) and run.regime == 'none')

  variants: dict[str, str] = {}
  for teacher in True, False:
    variants |= recipes.variants([run for run in runs if is_teacher(run) == teacher])
  groups: dict[_RowKey, list[Run]] = {}
  for i, row in enumerate(printed):
    groups[_RowKey(row.network, row.block, i == 0, '')] = []
  for run in runs:
    key = _RowKey(names[run.name], run.block, is_teacher(run), variants[run.name])
    groups.setdefault(key, []).append(run)
  return groups
