"""Tables as Markdown and CSV, and the headings and texts that these share with the HTML page."""

import csv
import io
import re
from collections.abc import Sequence

import tabulate

from moonshine_jax.errors import printable
from moonshine_jax.report import yardstick
from moonshine_jax.report.runs import Run
from moonshine_jax.report.tables import Table, TableRow, make_tables

NETWORK_HEADINGS = ('Network', 'Block', 'Parameters', 'Multiply-adds')
CSV_COLUMNS = (
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
)
# Cells padded to the width of their column, without the colons of alignment that tabulate's Markdown has.
_MARKDOWN = tabulate.TableFormat(
  lineabove=None,
  linebelowheader=tabulate.Line('| ', '-', ' | ', ' |'),
  linebetweenrows=None,
  linebelow=None,
  headerrow=None,
  datarow=tabulate.DataRow('| ', ' | ', ' |'),
  padding=0,
  with_header_hide=None,
)


def summary_markdown(runs: Sequence[Run]) -> str:
  """Writes the networks and methods that have runs as a Markdown table for each data set.

  Args:
    runs: runs of any data sets, finished or not.

  Returns:
    The tables: test errors as mean ± sample standard deviation (number of runs). Several have their titles.
  """
  texts = []
  tables = make_tables(runs)
  for table in tables:
    methods = table.methods_with_runs
    lines = [
      [
        *(text for text, _ in network_cells(row)),
        *(row.cells[method].text if method in row.cells else '-' for method in methods),
      ]
      for row in table.rows
      if any(cell.runs for cell in row.cells.values())
    ]
    markdown = _markdown([*NETWORK_HEADINGS, *(f'Error, {method}' for method in methods)], lines)
    texts.append((f'{_plain(table.title)}\n\n' if len(tables) > 1 else '') + markdown)
  return '\n\n'.join(texts)


def table_markdown(table: Table) -> str:
  """Writes the whole table as Markdown with its title and notes, the paper's errors beside ours."""
  heading, *more_headings = error_headings(table)
  headings = [text for method in table.methods for text in (f'{heading}, {method}', *more_headings)]
  lines = [
    [
      *(text for text, _ in network_cells(row)),
      *(text for method in table.methods for text, _ in error_cells(table, row, method)),
    ]
    for row in table.rows
  ]
  notes = map(_plain, table.notes)
  return '\n\n'.join([f'# {_plain(table.title)}', _markdown([*NETWORK_HEADINGS, *headings], lines), *notes]) + '\n'


def published_markdown(runs: Sequence[Run]) -> str:
  """Writes the published accuracies beside ours as Markdown; empty where no run is by their protocol."""
  rows = yardstick.compare_accuracies(runs)
  return f'{_markdown(yardstick.HEADINGS, [row.cells for row in rows])}\n\n{_plain(yardstick.NOTE)}\n' if rows else ''


def network_cells(row: TableRow) -> list[tuple[str, str | int | None]]:
  """Returns the cells below NETWORK_HEADINGS, each as text and as a value to sort by."""
  return [
    (row.name, row.name),
    (row.block, row.block),
    (f'{row.parameters:,}', row.parameters),
    (_number(row.multiply_adds, ','), row.multiply_adds),
  ]


def error_headings(table: Table) -> list[str]:
  """Returns the headings of each method's columns: the error, then what stands beside it."""
  return ['Error', *(['Paper', 'Difference'] if table.printed else []), 'Best epoch, not the result']


def error_cells(table: Table, row: TableRow, method: str) -> list[tuple[str, float | None]]:
  """Returns a row's cells below a method's `error_headings`, each as text and as a number to sort by."""
  cell = row.cells.get(method)
  if cell is None:
    return [('-', None)] * len(error_headings(table))
  printed = [(_number(cell.paper, '.2f'), cell.paper), (_number(cell.difference, '+.2f'), cell.difference)]
  return [(cell.text, cell.mean), *(printed if table.printed else []), (_number(cell.best, '.2f'), cell.best)]


def _number(value: float | None, form: str) -> str:
  return '-' if value is None else f'{value:{form}}'


def _markdown(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
  # The headings are given as a row: those that tabulate calls headers make a column up to two characters wider.
  headings, *rows = ([_plain(text) for text in row] for row in (headings, *lines))
  return tabulate.tabulate(
    [headings, tabulate.SEPARATING_LINE, *rows], tablefmt=_MARKDOWN, stralign='left', disable_numparse=True
  )


def _plain(text: str) -> str:
  """Returns a text as Markdown that shows it as it is, and no link, code, emphasis, HTML or cell of a table."""
  return re.sub(r'[\\`*<\[|~&]|(?<!\w)_|_(?!\w)', r'\\\g<0>', printable(text))


def table_csv(table: Table) -> str:
  """Writes a table as CSV: a line for each network and method, numbers not rounded, empty where there is none."""
  file = io.StringIO()
  writer = csv.writer(file, lineterminator='\n')
  writer.writerow(CSV_COLUMNS)
  for row in table.rows:
    for method, cell in row.cells.items():
      writer.writerow(
        [
          _csv_text(table.data),
          _csv_text(row.network),
          row.block,
          row.teacher,
          _csv_text(row.variant),
          row.parameters,
          row.multiply_adds,
          _csv_text(method),
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


def _csv_text(text: str) -> str:
  """Returns a text as a cell, behind an apostrophe where a spreadsheet would take it for a formula."""
  return ("'" if text.startswith(('=', '+', '-', '@')) else '') + printable(text)
