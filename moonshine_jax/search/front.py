"""The front of a search: its networks beside the uniform ones, as a table and a figure."""

import dataclasses
import importlib.util
import io
import json
from collections.abc import Mapping, Sequence

from tabulate import tabulate

from moonshine_jax.errors import warn
from moonshine_jax.runtime import files
from moonshine_jax.search import program
from moonshine_jax.search.run import Search
from moonshine_jax.search.space import Choice
from moonshine_jax.search.store import Losses
from moonshine_jax.workdir import provenance

# By cost: the heading of its column and the label of its axis, what one of them is in the unit, and its format.
COSTS = {
  'parameters': ('parameters', 1.0, '{:,.0f}'),
  'multiply_adds': ('multiply-adds', 1.0, '{:,.0f}'),
  'latency': ('milliseconds', 1e3, '{:.3f}'),
}


@dataclasses.dataclass
class FrontRow:
  """A network of the front.

  Attributes:
    kind: 'teacher', 'uniform' or 'searched'.
    choice: what it has at each place.
    costs: by name; the latency is measured whole, beside the teacher.
    losses: 'kl', 'ce' and 'error' on the held-out examples, before any training of the whole network.
    test_error: in percent, of a network that was searched.
    workdir: of a network that was searched.
  """

  kind: str
  choice: Choice
  costs: dict[str, float]
  losses: dict[str, float]
  test_error: float | None = None
  workdir: str = ''


def collect_front(search: Search, uniform: Mapping[int, Losses], of_teacher: Losses) -> list[FrontRow]:
  """Collects the teacher, the uniform networks and all networks that were found, and measures their latencies.

  Args:
    search: the search.
    uniform: losses of the uniform networks by candidate.
    of_teacher: losses of the teacher.
  """
  space, store = search.space, search.store
  networks = [_row(search, 'teacher', space.teacher, of_teacher)]
  networks += [_row(search, 'uniform', space.uniform(column), losses) for column, losses in uniform.items()]
  for path in store.networks():
    found = store.read_found(path)
    choice = tuple(found['choice'])
    best = next((each for each in found['solutions'] if each['block'] == found['block']), of_teacher)
    losses = {name: best[name] for name in of_teacher}
    network = _row(search, 'searched', choice, losses)
    networks.append(dataclasses.replace(network, test_error=found['test']['test_error'], workdir=str(path)))
  if 'latency' in search.costs:
    seconds = search.measure_whole([network.choice for network in networks])
    for network, taken in zip(networks, seconds, strict=True):
      network.costs['latency'] = taken
  return sorted(networks, key=lambda network: network.costs['parameters'], reverse=True)


def _row(search: Search, kind: str, choice: Choice, losses: dict[str, float]) -> FrontRow:
  costs = {name: program.cost_of(choice, costs) for name, costs in search.costs.items()}
  return FrontRow(kind, choice, costs, losses)


def write_front(search: Search) -> str:
  """Writes the front as front.json, front.md and front.svg in the folder of a search. Returns the table."""
  _, uniform, of_teacher, seconds = search.store.read_scores()
  networks, folder = collect_front(search, uniform, of_teacher), search.store.path
  values = {
    'environment': provenance.environment(),
    'teacher': str(search.teacher.workdir),
    'seconds': seconds,
    'networks': [
      {**dataclasses.asdict(network), 'block': search.space.notation(network.choice)} for network in networks
    ],
  }
  files.write_atomically(folder / 'front.json', json.dumps(values, indent=1, allow_nan=False) + '\n')
  table = _table(search, networks)
  files.write_atomically(folder / 'front.md', table + '\n')
  if importlib.util.find_spec('matplotlib') is None:
    warn("Matplotlib is not installed, so there is no figure: pip install 'moonshine-jax[report]'")
  else:
    files.write_atomically(folder / 'front.svg', _draw(search, networks))
  return table


def _table(search: Search, networks: Sequence[FrontRow]) -> str:
  costs = {name: column for name, column in COSTS.items() if name in search.costs}
  headings = ['', 'block', *(heading for heading, _, _ in costs.values()), 'KL', 'held-out error %', 'test error %']
  rows = [
    [
      network.kind,
      f'`{search.space.notation(network.choice)}`',
      *(text.format(unit * network.costs[name]) for name, (_, unit, text) in costs.items()),
      f'{network.losses["kl"]:.4f}',
      f'{network.losses["error"]:.2f}',
      '' if network.test_error is None else f'{network.test_error:.2f}',
    ]
    for network in networks
  ]
  right = ['right'] * (len(headings) - 2)
  return tabulate(rows, headings, 'github', disable_numparse=True, colalign=['left', 'left', *right])


def _draw(search: Search, networks: Sequence[FrontRow]) -> bytes:
  """Draws the held-out error against each cost, as SVG."""
  import matplotlib.pyplot as plt

  from moonshine_jax.report import figures

  costs = {name: column for name, column in COSTS.items() if name in search.costs}
  styles = {'teacher': ('black', '*'), 'uniform': ('tab:blue', 'o'), 'searched': ('tab:red', 'D')}
  with figures.plot_settings():
    figure, axes = plt.subplots(1, len(costs), figsize=(4.5 * len(costs), 4), squeeze=False, layout='constrained')
    for ax, (name, (label, unit, _)) in zip(axes[0], costs.items(), strict=True):
      for kind, (color, marker) in styles.items():
        of_kind = sorted((unit * each.costs[name], each.losses['error']) for each in networks if each.kind == kind)
        if of_kind:
          line = '-' if kind == 'searched' else ''
          ax.plot(*zip(*of_kind, strict=True), color=color, marker=marker, linestyle=line, markersize=5, label=kind)
      ax.set(xscale='log', xlabel=label, ylabel='held-out error, %')
      ax.xaxis.set_minor_formatter(figures.PlainFormatter())
      ax.xaxis.set_major_formatter(figures.PlainFormatter())
    axes[0][0].legend(frameon=False)
    figure.canvas.draw()
    for ax, (name, (_, unit, _)) in zip(axes[0], costs.items(), strict=True):
      figures.place_labels(
        ax,
        [
          (
            figures.label_text(search.space.notation(each.choice)),
            unit * each.costs[name],
            each.losses['error'],
            'tab:blue',
          )
          for each in networks
          if each.kind == 'uniform'
        ],
      )
    content = io.BytesIO()
    figure.savefig(content, format='svg', metadata={'Date': None})
    plt.close(figure)
  return content.getvalue()
