"""Tables of test errors, from the files of runs in results/."""

import statistics
from collections.abc import Iterable, Sequence

from sources import RESULTS, aligned, hardware, listed, read, source_of, with_sources

from moonshine_jax.report import runs as runs_lib
from moonshine_jax.report import table_formats, tables


def runs(file: str) -> str:
  """Shows the errors of a file of runs, with what a reader must know to take them rightly."""
  all_runs = runs_lib.read_runs(RESULTS / file)
  notes = [note for each in tables.make_tables(all_runs) for note in each.notes]
  epochs = sorted({run.config.epochs for run in all_runs})
  splits = sorted({run.config.data.train_split for run in all_runs})
  starts = [start for run in all_runs for start in run.starts]
  number = f'{len(all_runs)} {"run" if len(all_runs) == 1 else "runs"}'
  notes.append(
    f'{number} of {listed(epochs)} epochs of `{listed(splits)}`; {hardware(starts)}; '
    f'{source_of(file, starts)}. `moonshine report results/{file}` shows every run, with its command, seed and losses.'
  )
  table = f'<div class="numbers" markdown>\n\n{table_formats.summary_markdown(all_runs)}\n\n</div>'
  return '\n\n'.join([table, *(f'- {note}' for note in notes)])


def summary(file: str) -> str:
  """Shows the errors of a file of runs alone."""
  return table_formats.summary_markdown(runs_lib.read_runs(RESULTS / file))


def regimes(file: str) -> str:
  """Compares the regimes over the students of a file: the mean error, and what each changes beside none."""
  (results,) = tables.make_tables(runs_lib.read_runs(RESULTS / file))
  errors = {
    method: [row.cells[method].mean for row in results.rows if not row.teacher] for method in results.methods_with_runs
  }
  body = []
  for method, column in errors.items():
    changes = [after - before for before, after in zip(errors['none'], column, strict=True)]
    body.append(_cells(method, column, changes))
  return aligned(['regime', f'mean error of {len(column)} students', 'change (± standard error)'], body)


def forms(file: str) -> str:
  """Compares the losses of the students of a file: the mean error, and what each changes beside none, seed by seed."""
  (results,) = tables.make_tables(runs_lib.read_runs(RESULTS / file))
  (row,) = [row for row in results.rows if not row.teacher]
  errors = {
    method: {run.config.seed: run.error for run in row.cells[method].finished} for method in results.methods_with_runs
  }
  body = []
  for method, by_seed in errors.items():
    changes = [error - errors['none'][seed] for seed, error in by_seed.items()]
    body.append(_cells(method, by_seed.values(), changes))
  return aligned(['loss', f'mean error of {len(errors["none"])} seeds', 'change (± standard error)'], body)


def by_epoch(file: str, *epochs: str) -> str:
  """Shows errors after some passes over the training images, with those in which blocks have learnt alone.

  Those of runs that differ in the seed are means.
  """
  groups: dict[tuple[str, ...], list[dict[str, float]]] = {}
  for run in runs_lib.read_runs(RESULTS / file):
    alone = run.config.blockwise.epochs if run.config.distill.start == 'blockwise' else 0
    start = {'': 'random values', 'blockwise': 'blocks'}.get(run.config.distill.start, 'a search')
    words = f'`{run.block}`', start, f'{run.config.optimizer.learning_rate:g}'
    errors = {str(alone + epoch): error for epoch, error in zip(run.epochs, run.test_errors, strict=True)}
    groups.setdefault(words, []).append(errors)
  several = any(len(seeds) > 1 for seeds in groups.values())
  body = [
    [
      *words,
      *([len(seeds)] if several else []),
      *(f'{statistics.mean(each[epoch] for each in seeds):.2f}' if epoch in seeds[0] else '-' for epoch in epochs),
    ]
    for words, seeds in sorted(groups.items())
  ]
  heads = ['block', 'starts from', 'learning rate', *(['runs'] if several else [])]
  return aligned([*heads, *(f'after {epoch}' for epoch in epochs)], body, left=2)


def front(file: str) -> str:
  """Shows the networks of a search beside the uniform ones and the teacher, as its front has them."""
  content = read(file)
  body = []
  for network in content['networks']:
    costs, losses, error = network['costs'], network['losses'], network['test_error']
    measured = f'{1e3 * costs["latency"]:.2f}', f'{losses["kl"]:.2f}', f'{losses["error"]:.2f}'
    counted = f'{costs["parameters"]:,.0f}', f'{costs["multiply_adds"]:,.0f}'
    body.append([network['kind'], f'`{network["block"]}`', *counted, *measured, f'{error:.2f}' if error else '-'])
  heads = ['', 'block', 'parameters', 'multiply-adds', 'ms', 'KL', 'held-out error', 'test error']
  return with_sources(aligned(heads, body, left=2), {file: content})


def mixtures(file: str) -> str:
  """Lists how well what is known of random mixtures before they are tuned orders them by their error after it."""
  content = read(file)
  names = {
    'predicted': "sum of the square roots of the places' scores (KL), which the search minimises",
    'sum': 'sum of the scores',
    'together': 'KL of the network that is put together',
    'fisher': 'Fisher information at random parameters (BlockSwap)',
    'parameters': 'number of parameters',
  }
  body = [[names[name], f'{correlation:.2f}'] for name, correlation in content['correlations'].items()]
  number = sum('random' in row['chosen_by'] for row in content['rows'])
  return with_sources(aligned(['known before', f'rank correlation, {number} mixtures'], body), {file: content})


def _cells(method: str, errors: Iterable[float], changes: Sequence[float]) -> list[str]:
  """A method, its mean error, and what it changes, with the standard error."""
  spread = statistics.stdev(changes) / len(changes) ** 0.5
  change = '-' if method == 'none' else f'{statistics.mean(changes):+.2f} ± {spread:.2f}'
  return [method, f'{statistics.mean(errors):.2f}', change]
