"""The report as one HTML page that needs nothing beside itself."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

from moonshine_jax.report import tables
from moonshine_jax.report.runs import Run
from moonshine_jax.report.tables import Table

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto; padding: 1rem;
       max-width: 100rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.3rem; margin-top: 2.5rem; } h3 { font-size: 1.05rem; }
p, dd { max-width: 48rem; }
.table { overflow-x: auto; border: 1px solid #ccc; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: 0.3rem 0.5rem; text-align: right; border-bottom: 1px solid #e4e4e4; }
th { background: #f3f3f3; vertical-align: bottom; white-space: normal; } th.aside { min-width: 4rem; }
thead tr:first-child th[colspan] { text-align: center; border-left: 1px solid #ccc; }
td.text, th.text { text-align: left; } td.result { font-weight: 600; } td.none, td.aside, th.aside { color: #666; }
td.none { font-weight: 400; } tr.teacher td { background: #fafafa; }
.network, .block { position: sticky; white-space: normal; z-index: 1; } td.network, td.block { background: #fff; }
.network { left: 0; min-width: 8rem; max-width: 8rem; }
.block { left: 9rem; min-width: 5.5rem; overflow-wrap: anywhere; }
th button { font: inherit; font-weight: 600; color: inherit; text-align: inherit; background: none; border: 0;
            padding: 0; cursor: pointer; }
th button::after { content: '\\00a0\\2195'; color: #666; }
th[aria-sort=ascending] button::after { content: '\\00a0\\2191'; }
th[aria-sort=descending] button::after { content: '\\00a0\\2193'; }
figure { margin: 1.5rem 0; max-width: 42rem; } figure svg { display: block; width: 100%; height: auto; }
figcaption { font-size: 0.875rem; color: #444; }
code { font-size: 0.85rem; overflow-wrap: anywhere; } dt { font-weight: 600; margin-top: 0.6rem; } dd { margin: 0; }
summary { cursor: pointer; font-weight: 600; }
"""

# A click on a heading sorts by its column, a second one the other way; cells without a number stay last.
SCRIPT = """
for (const button of document.querySelectorAll('th button')) {
  button.addEventListener('click', () => {
    const heading = button.closest('th'), table = button.closest('table'), body = table.tBodies[0];
    const column = Number(heading.dataset.column);
    const sign = heading.getAttribute('aria-sort') === 'ascending' ? -1 : 1;
    for (const other of table.querySelectorAll('th')) other.removeAttribute('aria-sort');
    heading.setAttribute('aria-sort', sign === 1 ? 'ascending' : 'descending');
    const key = row => row.cells[column].dataset.sort;
    const rows = [...body.rows].sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === '' || y === '') return (x === '') - (y === '');
      return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
    });
    body.append(...rows);
  });
}
"""


def write(source: str, pages: Sequence[tuple[Table, dict[str, str]]]) -> str:
  """The page of tables, each with its figures: SVG by caption. `source` says what it was made from."""
  runs = [run for table, _ in pages for run in table.runs]
  sections = ''.join(_section(table, figures) for table, figures in pages)
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape('; '.join(table.title for table, _ in pages))}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>Moonshine: distilling with cheap convolutions</h1>
<p>{sum(run.finished for run in runs)} finished runs of {len(runs)}, from <code>{escape(source)}</code>.</p>
{sections}<script>{SCRIPT}</script>
</body>
</html>
"""


def _section(table: Table, figures: dict[str, str]) -> str:
  drawn = ''.join(
    f'<figure>{_inline(svg, f"{table.data}-{i}")}<figcaption>{escape(caption)}</figcaption></figure>\n'
    for i, (caption, svg) in enumerate(figures.items())
  )
  return (
    f'<section>\n<h2>{escape(table.title)}</h2>\n'
    + ''.join(f'<p>{escape(note)}</p>\n' for note in table.notes)
    + _results(table)
    + drawn
    + _provenance(table.runs)
    + '</section>\n'
  )


def _results(table: Table) -> str:
  """The table, which a click on a heading sorts."""
  beside = tables.columns(table)
  names = ['Network', 'Block', 'Parameters', 'Multiply-adds']
  head = ''.join(
    _heading(name, i, {0: 'text network', 1: 'text block'}.get(i, ''), ' rowspan="2"') for i, name in enumerate(names)
  )
  head += ''.join(
    f'<th colspan="{1 + len(beside)}" scope="colgroup">{"No distillation" if way == "none" else escape(way)}</th>'
    for way in table.ways
  )
  lower = ''
  for i, _ in enumerate(table.ways):
    for j, name in enumerate(['Error', *beside]):
      lower += _heading(name, len(names) + i * (1 + len(beside)) + j, 'aside' if j else '')
  body = ''
  for row in table.rows:
    cells = [
      _cell(row.name, row.name, 'text network'),
      _cell(row.block, row.block, 'text block'),
      _cell(f'{row.parameters:,}', row.parameters),
      _cell('-' if row.multiply_adds is None else f'{row.multiply_adds:,}', row.multiply_adds),
    ]
    for way in table.ways:
      for j, (text, number) in enumerate(tables.values(table, row, way)):
        cells.append(_cell(text, number, 'none' if number is None else 'aside' if j else 'result'))
    body += f'<tr{" class=teacher" if row.teacher else ""}>{"".join(cells)}</tr>\n'
  return _table(f'<tr>{head}</tr>\n<tr>{lower}</tr>', body)


def _heading(name: str, column: int, kind: str = '', more: str = '') -> str:
  return (
    f'<th class="{kind}" data-column="{column}" scope="col"{more}><button type="button">{escape(name)}</button></th>'
  )


def _cell(text: str, key: object, kind: str = '') -> str:
  return f'<td class="{kind}" data-sort="{"" if key is None else escape(str(key))}">{escape(text)}</td>'


def _table(head: str, body: str) -> str:
  return (
    f'<div class="table" tabindex="0"><table>\n<thead>\n{head}\n</thead>\n<tbody>\n{body}</tbody>\n</table></div>\n'
  )


def _provenance(runs: Sequence[Run]) -> str:
  """Where the numbers come from: in short, then run by run."""
  facts = {
    'Seeds': _distinct(_seeds(run) for run in runs),
    'Losses': _distinct(_loss(run) for run in runs),
    'Recipe': _distinct(_recipe(run) for run in runs),
    'Commit (+: with changes)': _distinct(commit for run in runs for commit in _of_starts(run, 'commit')),
    'Hardware': _distinct(each for run in runs for each in {_hardware(start) for start in run.starts}),
    'Versions': _distinct(each for run in runs for each in {_versions(start) for start in run.starts}),
  }
  terms = ''.join(
    f'<dt>{escape(name)}</dt>' + ''.join(f'<dd>{escape(value)}</dd>' for value in values)
    for name, values in facts.items()
  )
  names = [
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
  ]
  body = ''
  networks = tables.network_names(runs)
  for run in runs:
    values = [
      (run.name, run.name),
      (networks[run.name],) * 2,
      (run.block, run.block),
      (run.regime, run.regime),
      (_seeds(run),) * 2,
      (f'{run.epochs_done} of {run.config.epochs}', run.epochs_done),
      (f'{run.error:.2f}', run.error) if run.finished else ('unfinished', None),
      (f'{min(run.test_errors):.2f}', min(run.test_errors)) if run.test_errors else ('-', None),
    ]
    values += [(text := ', '.join(_of_starts(run, name)), text) for name in ('time', 'commit')]
    values += [(text := '; '.join(dict.fromkeys(map(_hardware, run.starts))), text)]
    values += [(text := '; '.join(_of_starts(run, 'command')), text)]
    body += '<tr>' + ''.join(_cell(text, key, 'text') for text, key in values) + '</tr>\n'
  head = '<tr>' + ''.join(_heading(name, i, 'text') for i, name in enumerate(names)) + '</tr>'
  return (
    f'<h3>Where the numbers come from</h3>\n<dl>{terms}</dl>\n'
    f'<details><summary>Every run</summary>\n{_table(head, body)}</details>\n'
  )


def _distinct(values: Iterable[str]) -> list[str]:
  """Each value once, with its number of runs where there are several."""
  counts = Counter(values)
  return [f'{value} ({count} runs)' if len(counts) > 1 else value for value, count in counts.items()]


def _of_starts(run: Run, name: str) -> list[str]:
  return list(dict.fromkeys(str(start.get(name)) for start in run.starts))


def _seeds(run: Run) -> str:
  return f'order {run.config.seed}, initial parameters {run.config.model.seed}'


def _loss(run: Run) -> str:
  distill = run.config.distill
  kd = f'KD {distill.kd_form}, alpha {distill.alpha:g}, T {distill.temperature:g}'
  at = f'AT {distill.at_form}, beta {distill.beta:g}'
  return {'none': 'cross entropy', 'KD': kd, 'AT': at, 'KD+AT': f'{kd}; {at}'}[run.regime]


def _recipe(run: Run) -> str:
  return ', '.join(f'{name} {value}' for name, value in run.recipe.items() if not name.startswith('distill.'))


def _hardware(start: dict) -> str:
  return f'{start.get("devices")} x {start.get("device")}; {start.get("processor")}, {start.get("cpus")} cores'


def _versions(start: dict) -> str:
  return ', '.join(
    f'{name} {start[name]}' for name in ('python', 'jax', 'jaxlib', 'flax', 'optax', 'orbax') if start.get(name)
  )


def _inline(svg: str, prefix: str) -> str:
  """An SVG file as an element, its ids its own."""
  prefix = re.sub('[^A-Za-z0-9]+', '-', prefix)
  return re.sub(r'(\bid="|url\(#|href="#)', rf'\g<1>{prefix}-', svg[svg.index('<svg') :])
