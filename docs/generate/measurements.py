"""Tables of what was measured, from the JSON files of results/: no number on the site is typed."""

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from moonshine_jax.cli import zoo as zoo_lib
from moonshine_jax.report import runs as runs_lib
from moonshine_jax.report import table_formats, tables
from moonshine_jax.runtime import cpu
from moonshine_jax.workdir.network_file import NetworkFile
from moonshine_jax.workdir.zoo import zoo_names

RESULTS = Path(__file__).parents[2] / 'results'


def aligned(headings: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1) -> str:
  """Writes a Markdown table: so many columns of words, the others of numbers."""
  rows = list(rows)
  alignment = ['left'] * left + ['right'] * (len(headings) - left)
  return tabulate(rows, headings, 'pipe', disable_numparse=True, colalign=alignment)


def runs(file: str) -> str:
  """Shows the errors of a file of runs, with what a reader must know to take them rightly."""
  all_runs = runs_lib.read_runs(RESULTS / file)
  notes = [note for each in tables.make_tables(all_runs) for note in each.notes]
  epochs = sorted({run.config.epochs for run in all_runs})
  splits = sorted({run.config.data.train_split for run in all_runs})
  starts = [start for run in all_runs for start in run.starts]
  notes.append(
    f'{len(all_runs)} runs of {_and(epochs)} epochs of `{_and(splits)}`; {_hardware(starts)}; '
    f'{_source(file, starts)}. `moonshine report results/{file}` shows every run, with its command, seed and losses.'
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
    spread = statistics.stdev(changes) / len(changes) ** 0.5
    change = '-' if method == 'none' else f'{statistics.mean(changes):+.2f} ± {spread:.2f}'
    body.append([method, f'{statistics.mean(column):.2f}', change])
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
    spread = statistics.stdev(changes) / len(changes) ** 0.5
    change = '-' if method == 'none' else f'{statistics.mean(changes):+.2f} ± {spread:.2f}'
    body.append([method, f'{statistics.mean(by_seed.values()):.2f}', change])
  return aligned(['loss', f'mean error of {len(errors["none"])} seeds', 'change (± standard error)'], body)


def loss_speeds(file: str) -> str:
  """Lists the speed of training by each form of the losses, beside KD's."""
  measured = _read(file)
  body = [
    [
      row['form'],
      f'{row["images_per_second"]:.0f} ({row["lowest"]:.0f} to {row["highest"]:.0f})',
      f'{row["ratio"]:.2f}',
    ]
    for row in measured['rows']
  ]
  return _with_sources(aligned(['loss', 'images/s', 'beside KD'], body), {file: measured})


def counts(*notations: str) -> str:
  """Lists the parameters and multiply-adds of WRN-40-2 with some blocks."""
  rows = {row['network']: row for row in _read('cpu/inference.json')['rows']}
  found = [rows[f'WRN-40-2 {notation}'] for notation in notations]
  return aligned(
    ['WRN-40-2, 32x32 images', 'parameters', 'multiply-adds'],
    [[_block(row), f'{row["parameters"]:,}', f'{row["multiply_adds"]:,}'] for row in found],
  )


def train_step(*files: str) -> str:
  """Lists the speed of training; a network of a later file replaces the same one of an earlier.

  Only `S` stays: it took part in every file, for the others to be compared with.
  """
  measured = {path: _read(path) for path in files}
  first, *_ = measured.values()
  rows = {row['network']: row for content in measured.values() for row in content['rows']} | {
    row['network']: row for row in first['rows'][:1]
  }
  body = []
  for row in rows.values():
    ours = max(speed for name, speed in row['images_per_second'].items() if name.startswith('ours'))
    ratios = row['ratios']
    body.append([
      _block(row), f'{ours:,.0f}', *(f'{ratios[name]:.2f}' for name in ('PyTorch NCHW', 'PyTorch channels_last', 'S')),
    ])  # fmt: skip
  headings = ['network', 'images/s', 'beside PyTorch, NCHW', 'beside PyTorch, channels_last', 'beside our `S`']
  return _with_sources(aligned(headings, body), measured, 'torch')


def inference(file: str) -> str:
  """Lists the latency and the throughput of networks."""
  content = _read(file)
  first = content['rows'][0]
  body = [
    [
      _block(row),
      f'{1e3 * row["latency"]:.1f}',
      f'{first["latency"] / row["latency"]:.2f}',
      f'{row["images_per_second"]:,.0f}',
      f'{row["images_per_second"] / first["images_per_second"]:.2f}',
      f'{1e12 / row["images_per_second"] / row["multiply_adds"]:.0f}',
    ]
    for row in content['rows']
  ]
  batches = f'batches of {content["flags"]["batch"]}, images/s'
  headings = ['network', 'one image, ms', 'beside `S`', batches, 'beside `S`', 'ns for 1,000 multiply-adds, in batches']
  return _with_sources(aligned(headings, body), {file: content})


def step_loop(file: str) -> str:
  """Lists what each choice of the training loop is worth."""
  content = _read(file)
  body = []
  for row in content['rows']:
    choice, other = row['choice'], row['counterpart']
    speeds = row['images_per_second']
    body.append([choice, f'{speeds[choice]:,.0f}', other, f'{speeds[other]:,.0f}', f'{row["ratio"]:.2f}'])
  markdown = tabulate(
    body,
    ['choice', 'images/s', 'beside', 'images/s', 'ratio'],
    'pipe',
    disable_numparse=True,
    colalign=['left', 'right', 'left', 'right', 'right'],
  )
  return _with_sources(markdown, {file: content})


def roofline(file: str) -> str:
  """Lists the floor of a step, in milliseconds an image, and the share of it that training reaches."""
  content = _read(file)
  body = [
    [
      _block(row),
      f'{1e3 * row["arithmetic"]:.1f}',
      f'{1e3 * row["memory"]:.1f}',
      f'{1 / row["floor"]:,.0f}',
      f'{row["images_per_second"]:,.0f}',
      f'{row["share"]:.2f}',
    ]
    for row in content['rows']
  ]
  headings = ['network', 'arithmetic, ms', 'memory, ms', 'floor, images/s', 'images/s', 'share']
  device = f'The device reaches {content["tflops"]:.3f} TFLOP/s by a matrix product and {content["bandwidth"]:.0f} GB/s'
  return _with_sources(aligned(headings, body), {file: content}) + f' {device} by a pass over memory.'


def compilation(file: str) -> str:
  """Lists the seconds until a train step is compiled."""
  content = _read(file)
  body = [
    [_block(row), f'{row["tracing"]:.1f}', f'{row["xla"]:.1f}', f'{row["tracing"] + row["xla"]:.1f}']
    for row in content['rows']
  ]
  return _with_sources(aligned(['network', 'tracing, s', 'XLA, s', 'together, s'], body), {file: content})


def host_memory(file: str) -> str:
  """Lists what the host's memory in a run of CIFAR-10 is made of."""
  content = _read(file)
  (row,) = content['rows']
  parts = ('programs', 'activations', 'data', 'total', 'data_set')
  body = [[name.replace('_', ' '), f'{row[name] / 1e6:,.0f}'] for name in parts]
  return _with_sources(aligned(['part', 'MB'], body), {file: content})


def image_feed(file: str) -> str:
  """Lists the photographs that are decoded and cropped in a second."""
  content = _read(file)
  body = [
    [row['run'], *(f'{row[name]:,.0f}' for name in ('images_per_second', 'lowest', 'highest'))]
    for row in content['rows']
  ]
  return _with_sources(aligned(['run', 'images/s', 'lowest', 'highest'], body), {file: content})


def folder_feed(file: str) -> str:
  """Lists the images of a folder that are read, decoded and cropped in a second, by the clock and by CPU time."""
  content = _read(file)
  body = [
    [
      row['run'],
      *(
        f'{row[name]["median"]:,.0f} ({row[name]["lowest"]:,.0f} to {row[name]["highest"]:,.0f})'
        for name in ('images_per_cpu_second', 'images_per_second')
      ),
    ]
    for row in content['rows']
  ]
  return _with_sources(aligned(['run', 'of a core, by CPU time', 'by the clock'], body), {file: content})


def exports(*files: str) -> str:
  """Lists the latency and the size of exported networks."""
  measured = {path: _read(path) for path in files}
  columns: dict[str, dict[str, str]] = {}
  for content in measured.values():
    runtime = content['runtime'].split(',')[0]
    for row in content['rows']:
      cell = f'{1e3 * row["latency"]:.2f} ({row["bytes"] / 1024:,.0f})'
      form = row['formulation']
      block = _block(row)
      columns.setdefault(f'{runtime}, {row["numbers"]}', {})[block] = cell + ('' if form == 'grouped' else f', {form}')
  blocks = list(dict.fromkeys(block for column in columns.values() for block in column))
  body = [[block, *(column.get(block, '-') for column in columns.values())] for block in blocks]
  return _with_sources(aligned(['block', *columns], body), measured)


def tpu_formulations(file: str) -> str:
  """Lists XLA's estimates for a TPU by the formulation of the grouped convolutions: thousands of cycles."""
  content = _read(file)
  cells: dict[str, dict[str, str]] = {}
  for row in content['rows']:
    cells.setdefault(_block(row), {})[row['formulation']] = _cycles(row)
  names = {'rule': 'our rule', 'lax': "XLA's grouped convolutions", 'dense': 'dense convolutions throughout'}
  body = [[block, *(row.get(name, '-') for name in names)] for block, row in cells.items()]
  return _with_sources(aligned(['network', *names.values()], body), {file: content}, 'libtpu')


def tpu_steps(*files: str) -> str:
  """Lists XLA's estimates of both steps for a TPU, by our rule: thousands of cycles."""
  measured = {path: _read(path) for path in files}
  rows = {row['network']: row for content in measured.values() for row in content['rows']}
  body = [[_block(row), _cycles(row)] for row in rows.values()]
  return _with_sources(aligned(['network', 'training (evaluation)'], body), measured, 'libtpu')


def gpu_steps(*files: str) -> str:
  """Lists what a train step launches and moves on a GPU, and the kernels of an evaluation step."""
  measured = {path: _read(path) for path in files}
  heads = ['network', 'GPUs', 'kernels', 'cuDNN', 'reductions', 'MB moved', 'floor MB', 'MB temporary', 'in evaluation']
  body = []
  for content in measured.values():
    for row in content['rows']:
      train, evaluation = row['train'], row['evaluation']
      kernels = train['kernels']
      body.append(
        [
          _block(row),
          row['devices'],
          sum(kernels.values()),
          kernels['cudnn'],
          kernels['reduction'],
          *(f'{size / 1e6:,.0f}' for size in (train['bytes_moved'], row['floor_bytes'], train['bytes_temporary'])),
          sum(evaluation['kernels'].values()),
        ]
      )
  return _with_sources(aligned(heads, body), measured)


def zoo() -> str:
  """Lists the networks that come with the package, and what made each."""
  networks = [zoo_lib.describe_network(NetworkFile(name)) for name in zoo_names()]
  body = [[f'`{name}`', *cells] for name, *cells in map(zoo_lib.cells_of_network, networks)]
  origins = [
    f'`{network["name"]}`: {zoo_lib.describe_origin(network)}:\n\n    ```sh\n    {network["command"]}\n    ```'
    for network in networks
  ]
  return '\n\n'.join([aligned(zoo_lib.HEADINGS, body, left=3), *(f'- {origin}' for origin in origins)])


def _cycles(row: dict[str, Any]) -> str:
  return f'{row["train"]["cycles"] / 1e3:,.0f} ({row["evaluation"]["cycles"] / 1e3:,.0f})'


def _block(row: dict[str, Any]) -> str:
  """Names a network as the tables do: by its block alone where it is WRN-40-2."""
  return f'`{row["network"].removeprefix("WRN-40-2 ")}`'


def _with_sources(markdown: str, measured: dict[str, dict[str, Any]], library: str | None = None) -> str:
  """Adds the machines, versions and files of a table; `library` takes part in it beside JAX."""
  sources = '; '.join(_source(path, [content['environment']]) for path, content in measured.items())
  environments = [content['environment'] for content in measured.values()]
  return f'{markdown}\n\n{_hardware(environments, library)}. {sources}.'


def _source(file: str, environments: Iterable[dict[str, Any]]) -> str:
  commits = dict.fromkeys(str(each.get('commit'))[:7] for each in environments)
  return f'`results/{file}`, commit {_and(commits)}'


def _hardware(environments: Iterable[dict[str, Any]], library: str | None = None) -> str:
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
  return f'{_and(dict.fromkeys(machines))}; {_and(dict.fromkeys(versions))}'.replace('1 devices', 'one device')


def _and(values: Iterable[Any]) -> str:
  *first, last = map(str, values)
  return f'{", ".join(first)} and {last}' if first else last


def _read(file: str) -> dict[str, Any]:
  return json.loads((RESULTS / file).read_text('utf-8'))
