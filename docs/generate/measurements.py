"""Tables of what was measured, from the JSON files of results/: no number on the site is typed."""

from typing import Any

from sources import aligned, read, with_sources
from tabulate import tabulate

from moonshine_jax.cli import zoo as zoo_lib
from moonshine_jax.workdir.network_file import NetworkFile
from moonshine_jax.workdir.zoo import zoo_names


def loss_speeds(file: str) -> str:
  """Lists the speed of training by each form of the losses, beside KD's."""
  measured = read(file)
  body = [
    [
      row['form'],
      f'{row["images_per_second"]:.0f} ({row["lowest"]:.0f} to {row["highest"]:.0f})',
      f'{row["ratio"]:.2f}',
    ]
    for row in measured['rows']
  ]
  return with_sources(aligned(['loss', 'images/s', 'beside KD'], body), {file: measured})


def counts(*notations: str) -> str:
  """Lists the parameters and multiply-adds of WRN-40-2 with some blocks."""
  rows = {row['network']: row for row in read('cpu/inference.json')['rows']}
  found = [rows[f'WRN-40-2 {notation}'] for notation in notations]
  return aligned(
    ['WRN-40-2, 32x32 images', 'parameters', 'multiply-adds'],
    [[_block(row), f'{row["parameters"]:,}', f'{row["multiply_adds"]:,}'] for row in found],
  )


def train_step(*files: str) -> str:
  """Lists the speed of training; a network of a later file replaces the same one of an earlier.

  Only `S` stays: it took part in every file, for the others to be compared with.
  """
  measured = {path: read(path) for path in files}
  first, *_ = measured.values()
  rows = {row['network']: row for content in measured.values() for row in content['rows']} | {
    row['network']: row for row in first['rows'][:1]
  }
  headings = {'PyTorch NCHW': 'beside PyTorch, NCHW', 'PyTorch channels_last': 'beside PyTorch, channels_last'}
  if all('S' in row['ratios'] for row in rows.values()):  # where WRN-40-2 S took part
    headings['S'] = 'beside our `S`'
  body = []
  for row in rows.values():
    ours = max(speed for name, speed in row['images_per_second'].items() if name.startswith('ours'))
    body.append([_block(row), f'{ours:,.0f}', *(f'{row["ratios"][name]:.2f}' for name in headings)])
  return with_sources(aligned(['network', 'images/s', *headings.values()], body), measured, 'torch')


def inference(file: str) -> str:
  """Lists the latency and the throughput of networks."""
  content = read(file)
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
  return with_sources(aligned(headings, body), {file: content})


def step_loop(file: str) -> str:
  """Lists what each choice of the training loop is worth."""
  content = read(file)
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
  return with_sources(markdown, {file: content})


def cuda_graphs(file: str) -> str:
  """Lists the speed of a train step by what XLA records into CUDA graphs."""
  content = read(file)
  names = {
    'none': 'no graphs',
    'between': 'between convolutions',
    'convolutions': 'convolutions too, kernels in order',
    'concurrent': 'convolutions too, kernels beside each other',
    'loop': 'the loop over steps too, in order',
  }
  body = [
    [
      _block(row) if not index else '',
      names[name],
      f'{speed:,.0f}',
      f'{row["lowest"][name]:,.0f} to {row["highest"][name]:,.0f}',
      f'{row["ratios"][name]:.2f}' if row['ratios'] else '-',
    ]
    for row in content['rows']
    for index, (name, speed) in enumerate(row['images_per_second'].items())
  ]
  headings = ['network', 'in a graph', 'images/s', 'lowest to highest', 'beside graphs between convolutions']
  return with_sources(aligned(headings, body, left=2), {file: content})


def roofline(file: str) -> str:
  """Lists the floor of a step, in milliseconds an image, and the share of it that training reaches."""
  content = read(file)
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
  return with_sources(aligned(headings, body), {file: content}) + f' {device} by a pass over memory.'


def compilation(file: str) -> str:
  """Lists the seconds until a train step is compiled."""
  content = read(file)
  body = [
    [_block(row), f'{row["tracing"]:.1f}', f'{row["xla"]:.1f}', f'{row["tracing"] + row["xla"]:.1f}']
    for row in content['rows']
  ]
  return with_sources(aligned(['network', 'tracing, s', 'XLA, s', 'together, s'], body), {file: content})


def host_memory(file: str) -> str:
  """Lists what the host's memory in a run of CIFAR-10 is made of."""
  content = read(file)
  (row,) = content['rows']
  parts = ('programs', 'activations', 'data', 'total', 'data_set')
  body = [[name.replace('_', ' '), f'{row[name] / 1e6:,.0f}'] for name in parts]
  return with_sources(aligned(['part', 'MB'], body), {file: content})


def image_feed(file: str) -> str:
  """Lists the photographs that are decoded and cropped in a second."""
  content = read(file)
  body = [
    [row['run'], *(f'{row[name]:,.0f}' for name in ('images_per_second', 'lowest', 'highest'))]
    for row in content['rows']
  ]
  return with_sources(aligned(['run', 'images/s', 'lowest', 'highest'], body), {file: content})


def folder_feed(file: str) -> str:
  """Lists the images of a folder that are read, decoded and cropped in a second, by the clock and by CPU time."""
  content = read(file)
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
  return with_sources(aligned(['run', 'of a core, by CPU time', 'by the clock'], body), {file: content})


def exports(*files: str) -> str:
  """Lists the latency and the size of exported networks."""
  measured = {path: read(path) for path in files}
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
  return with_sources(aligned(['block', *columns], body), measured)


def tpu_formulations(file: str) -> str:
  """Lists XLA's estimates for a TPU by the formulation of the grouped convolutions: thousands of cycles."""
  content = read(file)
  cells: dict[str, dict[str, str]] = {}
  for row in content['rows']:
    cells.setdefault(_block(row), {})[row['formulation']] = _cycles(row)
  names = {'rule': 'our rule', 'lax': "XLA's grouped convolutions", 'dense': 'dense convolutions throughout'}
  body = [[block, *(row.get(name, '-') for name in names)] for block, row in cells.items()]
  return with_sources(aligned(['network', *names.values()], body), {file: content}, 'libtpu')


def tpu_steps(*files: str) -> str:
  """Lists XLA's estimates of both steps for a TPU, by our rule: thousands of cycles."""
  measured = {path: read(path) for path in files}
  rows = {row['network']: row for content in measured.values() for row in content['rows']}
  body = [[_block(row), _cycles(row)] for row in rows.values()]
  return with_sources(aligned(['network', 'training (evaluation)'], body), measured, 'libtpu')


def gpu_steps(*files: str) -> str:
  """Lists what a train step launches and moves on a GPU, and the kernels of an evaluation step."""
  measured = {path: read(path) for path in files}
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
  return with_sources(aligned(heads, body), measured)


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
