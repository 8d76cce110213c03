"""The report as one HTML page that needs no other file: what fills the template `templates/page.html.jinja`."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from moonshine_jax import config as config_lib
from moonshine_jax import fields
from moonshine_jax.errors import printable
from moonshine_jax.report import recipes, table_formats, tables, yardstick
from moonshine_jax.report.runs import Run
from moonshine_jax.report.tables import Table

RUN_HEADINGS = (
  'Run',
  'Network',
  'Block',
  'Regime',
  'Seeds',
  'Epochs',
  'Error',
  'Best epoch, not the result',
  'Started',
  'Commit',
  'Hardware',
  'Command',
)


class _Heading(NamedTuple):
  """A heading; a click on it sorts the table by its column.

  Attributes:
    text: text of the heading.
    column: index of the column, from 0.
    style: classes of CSS, separated by spaces.
    rows: number of heading rows that it spans.
  """

  text: str
  column: int
  style: str = ''
  rows: int = 1


class _PageCell(NamedTuple):
  """A cell; `sort_key` is what its column is sorted by, '' for a cell that stays last."""

  text: str
  sort_key: Any
  style: str = ''


def render_page(source: str, tables_with_figures: Sequence[tuple[Table, dict[str, str]]]) -> str:
  """Renders the page of tables and their figures.

  Args:
    source: name of the folder or file that the runs come from.
    tables_with_figures: each table with its figures, SVG by caption.

  Returns:
    HTML with its style, script and figures in it.
  """
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('moonshine_jax.report'),
    autoescape=True,
    finalize=_printable,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
  )
  runs = [run for table, _ in tables_with_figures for run in table.runs]
  return environment.get_template('page.html.jinja').render(
    title='; '.join(table.title for table, _ in tables_with_figures),
    css=_read_template('page.css'),
    script=_read_template('page.js'),
    source=source,
    runs=len(runs),
    finished=sum(run.finished for run in runs),
    sections=[_section(i, table, figures) for i, (table, figures) in enumerate(tables_with_figures)],
  )


def _printable(value: Any) -> Any:
  """Returns what the template shows of a value: markup is ours, all other text may be anybody's."""
  return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _read_template(name: str) -> Markup:
  """Reads a file of the templates that holds no markup of Jinja."""
  return Markup(resources.files('moonshine_jax.report').joinpath('templates', name).read_text(encoding='utf-8'))


def _section(number: int, table: Table, figures: dict[str, str]) -> dict[str, Any]:
  return {
    'title': table.title,
    'notes': table.notes,
    'table': _results(table),
    'figures': [
      (Markup(_inline_svg(svg, f'figure-{number}-{i}')), caption) for i, (caption, svg) in enumerate(figures.items())
    ],
    'published': _published(table.runs),
    'provenance': _provenance(table.runs),
  }


def _published(runs: Sequence[Run]) -> dict[str, Any]:
  """Returns the cells of the published accuracies beside ours; none where no run is by their protocol."""
  return {
    'headings': [_Heading(text, column, 'text') for column, text in enumerate(yardstick.HEADINGS)],
    'rows': [[_page_cell(text, text, 'text') for text in row.cells] for row in yardstick.compare_accuracies(runs)],
    'note': yardstick.NOTE,
  }


def _results(table: Table) -> dict[str, Any]:
  """Returns the cells of the table of test errors; its heading has two rows."""
  error_headings = table_formats.error_headings(table)
  network_styles = ('text network', 'text block', '', '')
  first_error_column = len(table_formats.NETWORK_HEADINGS)
  return {
    'network_headings': [
      _Heading(text, column, style, rows=2)
      for column, (text, style) in enumerate(zip(table_formats.NETWORK_HEADINGS, network_styles, strict=True))
    ],
    'methods': ['No distillation' if method == 'none' else method for method in table.methods],
    'columns_per_method': len(error_headings),
    'error_headings': [
      _Heading(text, column, '' if text == error_headings[0] else 'aside')
      for column, text in enumerate(error_headings * len(table.methods), start=first_error_column)
    ],
    'rows': [
      {'teacher': row.teacher, 'cells': _network_cells(row, network_styles) + _error_cells(table, row)}
      for row in table.rows
    ],
  }


def _network_cells(row: tables.TableRow, styles: Sequence[str]) -> list[_PageCell]:
  return [
    _page_cell(text, key, style) for (text, key), style in zip(table_formats.network_cells(row), styles, strict=True)
  ]


def _error_cells(table: Table, row: tables.TableRow) -> list[_PageCell]:
  return [
    _page_cell(text, number, 'none' if number is None else 'aside' if i else 'result')
    for method in table.methods
    for i, (text, number) in enumerate(table_formats.error_cells(table, row, method))
  ]


def _page_cell(text: str, key: str | float | None, style: str) -> _PageCell:
  return _PageCell(text, '' if key is None else key, style)


def _provenance(runs: Sequence[Run]) -> dict[str, Any]:
  """Returns where the numbers come from: in short, then run by run."""
  networks = recipes.network_names(runs)
  return {
    'summary': {
      'Data': _distinct(run.facts.describe() for run in runs),
      'Seeds': _distinct(_seeds(run) for run in runs),
      'Losses': _distinct(_loss(run) for run in runs),
      'Recipe': _distinct(_recipe(run) for run in runs),
      'Commit (+: with changes)': _distinct(commit for run in runs for commit in _distinct_in_starts(run, 'commit')),
      'Hardware': _distinct(hardware for run in runs for hardware in dict.fromkeys(map(_hardware, run.starts))),
      'Versions': _distinct(versions for run in runs for versions in dict.fromkeys(map(_versions, run.starts))),
    },
    'headings': [_Heading(text, column, 'text') for column, text in enumerate(RUN_HEADINGS)],
    'rows': [_run_cells(run, networks[run.name]) for run in runs],
  }


def _run_cells(run: Run, network: str) -> list[_PageCell]:
  """Returns the cells of a run below RUN_HEADINGS."""
  texts = {
    'started': ', '.join(_distinct_in_starts(run, 'time')),
    'commit': ', '.join(_distinct_in_starts(run, 'commit')),
    'hardware': '; '.join(dict.fromkeys(map(_hardware, run.starts))),
    'command': '; '.join(_distinct_in_starts(run, 'command')),
  }
  best = min(run.test_errors, default=None)
  cells: list[tuple[str, str | float | None]] = [
    *((text, text) for text in (run.name, network, run.block, run.regime, _seeds(run))),
    (f'{run.epochs_done} of {run.config.epochs}', run.epochs_done),
    (f'{run.error:.2f}', run.error) if run.finished else ('unfinished', None),
    ('-' if best is None else f'{best:.2f}', best),
    *((text, text) for text in texts.values()),
  ]
  return [_page_cell(text, key, 'text') for text, key in cells]


def _distinct(values: Iterable[str]) -> list[str]:
  """Returns each value once, with its number of runs if there are several values."""
  counts = Counter(values)
  return [f'{value} ({count} runs)' if len(counts) > 1 else value for value, count in counts.items()]


def _distinct_in_starts(run: Run, name: str) -> list[str]:
  """Returns each value that a field has in the starts of a run, once."""
  return list(dict.fromkeys(str(start.get(name)) for start in run.starts))


def _seeds(run: Run) -> str:
  return f'order {run.config.seed}, initial parameters {run.config.model.seed}'


def _loss(run: Run) -> str:
  distill = run.config.distill
  kd = f'KD {distill.kd_form}, alpha {distill.alpha:g}, T {distill.temperature:g}'
  at = f'AT {distill.at_form}, beta {distill.beta:g}'
  text = {'none': 'cross entropy', 'KD': kd, 'AT': at, 'KD+AT': f'{kd}; {at}'}[run.regime]
  values = config_lib.flatten(run.config)
  more = [
    f'{name.removeprefix("distill.")} {values[name]}'
    for name in config_lib.loss_fields(run.config)
    if fields.FIELDS[name].later and values[name] != fields.FIELDS[name].default
  ]
  return '; '.join([text, *more])


def _recipe(run: Run) -> str:
  return ', '.join(f'{name} {value}' for name, value in run.recipe.items() if not name.startswith('distill.'))


def _hardware(start: dict[str, Any]) -> str:
  return f'{start.get("devices")} x {start.get("device")}; {start.get("processor")}, {start.get("cpus")} cores'


def _versions(start: dict[str, Any]) -> str:
  return ', '.join(
    f'{name} {start[name]}' for name in ('python', 'jax', 'jaxlib', 'flax', 'optax', 'orbax') if start.get(name)
  )


def _inline_svg(svg: str, prefix: str) -> str:
  """Turns an SVG file into an element whose ids begin with the prefix, so that no two on the page are the same."""
  return re.sub(r'(\bid="|url\(#|href="#)', rf'\g<1>{prefix}-', svg[svg.index('<svg') :])
