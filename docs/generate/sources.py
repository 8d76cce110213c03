"""What all tables of measurements share: the files of results/, and the words that name where they come from."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from moonshine_jax.runtime import cpu
from moonshine_jax.workdir import provenance

RESULTS = Path(__file__).parents[2] / 'results'


def aligned(headings: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1) -> str:
  """Writes a Markdown table: so many columns of words, the others of numbers."""
  rows = list(rows)
  alignment = ['left'] * left + ['right'] * (len(headings) - left)
  return tabulate(rows, headings, 'pipe', disable_numparse=True, colalign=alignment)


def with_sources(markdown: str, measured: dict[str, dict[str, Any]], library: str | None = None) -> str:
  """Adds the machines, versions and files of a table; `library` takes part in it beside JAX."""
  sources = '; '.join(source_of(path, [content['environment']]) for path, content in measured.items())
  environments = [content['environment'] for content in measured.values()]
  return f'{markdown}\n\n{hardware(environments, library)}. {sources}.'


def source_of(file: str, environments: Iterable[dict[str, Any]]) -> str:
  """Names a file of results and the commits that made it."""
  commits = dict.fromkeys(provenance.short_commit(each.get('commit')) for each in environments)
  return f'`results/{file}`, commit {listed(commits)}'


def hardware(environments: Iterable[dict[str, Any]], library: str | None = None) -> str:
  """Names the machines, and the versions of JAX and of a library beside it."""
  machines, versions = [], []
  for each in environments:
    device = each['device']
    if each['backend'] == 'cpu':  # older files do not say which instructions it has
      widest = cpu.widest_instruction_set(each.get('instruction_sets', ()))
      device = each['processor'] + f' with {widest}' * bool(widest)
    machines.append(f'{each["devices"]} devices on {each["cpus"]} cores of {device}')
    beside = f', {library.replace("torch", "PyTorch")} {each[library]}' if library else ''
    versions.append(f'jax {each["jax"]}{beside}')
  return f'{listed(dict.fromkeys(machines))}; {listed(dict.fromkeys(versions))}'.replace('1 devices', 'one device')


def listed(values: Iterable[Any]) -> str:
  """Joins values by commas and "and"."""
  *first, last = map(str, values)
  return f'{", ".join(first)} and {last}' if first else last


def read(file: str) -> dict[str, Any]:
  """Reads a file of results."""
  return json.loads((RESULTS / file).read_text('utf-8'))
