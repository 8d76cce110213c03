"""Figures 3 and 4 of the paper, learning curves, and what all plots share: needs Matplotlib, the extra `report`."""

import dataclasses
import io
from collections.abc import Callable, Iterable, Sequence

import matplotlib

matplotlib.use('Agg')  # writes files, needs no screen

import matplotlib.pyplot as plt
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter, MaxNLocator

from moonshine_jax.models.blocks import Block
from moonshine_jax.report.tables import Row, Table

# The paper's colours, with a marker for each as well.
STYLES = {
  'teacher': ('black', '*'),
  'S, reduced architecture': ('tab:red', 'o'),
  'G': ('tab:green', '^'),
  'B': ('tab:blue', 'D'),
  'BG': ('tab:cyan', 'v'),
  'S-2x2': ('tab:orange', 's'),
  'mixed': ('tab:gray', 'P'),
}
# Text stays text, and the same figure the same bytes.
SVG = {'svg.fonttype': 'none', 'svg.hashsalt': 'moonshine', 'font.size': 9, 'axes.titlesize': 10}
# Where a label may lie, from its point, in points: right, left, above, below, then farther off.
ANCHORS = [
  (x, y, 'left' if x > 0 else 'right' if x < 0 else 'center')
  for far in (1, 2, 3, 4.5, 6)
  for x, y in (
    (7 * far, 0),
    (-7 * far, 0),
    (0, 8 * far),
    (0, -8 * far),
    (6 * far, 7 * far),
    (-6 * far, 7 * far),
    (6 * far, -7 * far),
    (-6 * far, -7 * far),
  )
]


class PlainFormatter(LogFormatter):
  """0.3 and 20, where Matplotlib writes 3e-01 and 2x10^1; which ticks have a label is its own choice."""

  def __call__(self, x: float, pos: int | None = None) -> str:
    return f'{x:g}' if super().__call__(x, pos) else ''


def place_labels(ax, labels: Iterable[tuple[str, float, float, str]]) -> None:
  """Labels every point (text, x, y, colour) of a drawn figure's axes.

  Each label lies in the first place where it meets no point, no label before it and no edge.
  """
  renderer = ax.figure.canvas.get_renderer()
  labels = list(labels)
  centres = ax.transData.transform([(x, y) for _, x, y, _ in labels])
  radius = 4 * ax.figure.dpi / 72
  taken = []
  for (text, x, y, color), centre in zip(labels, centres, strict=True):
    others = [other for other in centres if tuple(other) != tuple(centre)]
    label = ax.annotate(
      text,
      (x, y),
      xytext=(0, 0),
      textcoords='offset points',
      fontsize=8.5,
      color=color,
      va='center',
      bbox={'boxstyle': 'square,pad=0.05', 'facecolor': 'white', 'edgecolor': 'none', 'alpha': 0.7},  # over the lines
      arrowprops={'arrowstyle': '-', 'color': color, 'linewidth': 0.4, 'shrinkA': 0, 'shrinkB': 2},
    )
    for dx, dy, alignment in ANCHORS:
      label.set_position((dx, dy))
      label.set_horizontalalignment(alignment)
      label.update_positions(renderer)
      box = Text.get_window_extent(label, renderer)
      inside = ax.bbox.x0 < box.x0 and box.x1 < ax.bbox.x1 and ax.bbox.y0 < box.y0 and box.y1 < ax.bbox.y1
      if (
        inside
        and not any(box.overlaps(each) for each in taken)
        and not any(box.padded(radius).contains(*other) for other in others)
      ):
        break
    taken.append(box)


@dataclasses.dataclass(frozen=True)
class Point:
  """A network in a figure: `cost` in the unit of its axis, `error` and its `spread` in percent."""

  label: str
  kind: str
  cost: float
  error: float
  spread: float | None = None


def points(table: Table, way: str, cost: Callable[[Row], float | None]) -> list[Point]:
  """The networks of a table that have a cost and an error, learning this way, and the teacher."""
  first = table.rows[0]
  found = []
  for row in table.rows:
    cell = row.cells['none' if row.teacher else way]
    if cell.finished and (found_cost := cost(row)):
      found.append(Point(_label(row, first), kind_of(row), found_cost, cell.mean, cell.spread))
  return found


def kind_of(row: Row) -> str:
  """The name of a row's style."""
  if row.teacher:
    return 'teacher'
  blocks = Block.parse_list(row.block)
  if len(set(blocks)) > 1:
    return 'mixed'
  return 'S, reduced architecture' if blocks[0].kind == 'S' else blocks[0].kind


def _label(row: Row, first: Row) -> str:
  """As the paper's: '16-2' for a reduced architecture, 'G(N/8)' for another block."""
  architecture = row.network.removeprefix('WRN-')
  if row.teacher:
    text = f'teacher {architecture}'
  elif row.block == 'S':
    text = architecture
  else:
    text = row.block if row.network == first.network else f'{architecture} {row.block}'
  return f'{text}, {row.variant}' if row.variant else text


def pareto_front(found: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
  """The (cost, error) than which none has both a cost and an error as low, one of them lower; by cost."""
  front: list[tuple[float, float]] = []
  for cost, error in sorted(set(found)):
    if not front or error < front[-1][1]:
      front.append((cost, error))
  return front


def cost_figure(found: Sequence[Point], title: str, cost: str) -> str:
  """SVG: error against a cost on a log axis, a curve for each kind of block, and the Pareto front."""
  with plt.rc_context(SVG):
    figure, ax = plt.subplots(figsize=(5.2, 5.6), layout='constrained')
    ax.set(xscale='log', title=title, xlabel=cost, ylabel='test error (%)')
    ax.xaxis.set_major_formatter(PlainFormatter())
    ax.xaxis.set_minor_formatter(PlainFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    ax.margins(0.12)
    front = pareto_front((point.cost, point.error) for point in found)
    ax.step(
      *zip(*front, strict=True), where='post', color='0.7', linewidth=4, alpha=0.6, zorder=1, label='Pareto front'
    )
    for kind, (color, marker) in STYLES.items():
      own = sorted((point.cost, point.error, point.spread or 0) for point in found if point.kind == kind)
      if own:
        x, y, spreads = zip(*own, strict=True)
        ax.errorbar(
          x,
          y,
          yerr=spreads if any(spreads) else None,
          color=color,
          marker=marker,
          linewidth=1,
          markersize=9 if kind == 'teacher' else 5,
          elinewidth=0.7,
          capsize=2,
          label=kind,
          zorder=2,
        )
    ax.grid(True, which='both', linewidth=0.3, color='0.85')
    figure.legend(loc='outside lower center', ncols=3, frameon=False)
    figure.canvas.draw()  # settles the layout, on which the labels' places depend
    place_labels(ax, [(point.label, point.cost, point.error, '0.15') for point in found])
    return _svg(figure)


def learning_curves(table: Table) -> str:
  """SVG: the test error of every run by epoch, a panel for each way of learning."""
  ways = [way for way in table.ways if any(way in row.cells and row.cells[way].runs for row in table.rows)]
  with plt.rc_context(SVG):
    figure, axes = plt.subplots(
      len(ways), 1, figsize=(5.2, 0.6 + 2.2 * len(ways)), layout='constrained', sharex=True, sharey=True, squeeze=False
    )
    figure.suptitle(f'{table.title}, by epoch', fontsize='large')
    for ax, way in zip(axes[:, 0], ways, strict=True):
      ax.set(yscale='log', ylabel='test error (%)', title='no distillation' if way == 'none' else way)
      ax.yaxis.set_major_formatter(PlainFormatter())
      ax.yaxis.set_minor_formatter(PlainFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
      ax.grid(True, which='both', linewidth=0.3, color='0.85')
      for row in table.rows:
        for run in row.cells[way].runs if way in row.cells else ():
          kind = kind_of(row)
          ax.plot(run.epochs, run.test_errors, color=STYLES[kind][0], linewidth=0.8, alpha=0.8, label=kind)
    axes[-1, 0].set_xlabel('epoch')
    axes[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    lines = {line.get_label(): line for ax in axes[:, 0] for line in ax.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc='outside lower center', ncols=3, frameon=False)
    return _svg(figure)


def _svg(figure) -> str:
  file = io.StringIO()
  figure.savefig(file, format='svg', metadata={'Date': None, 'Creator': None, 'Format': None, 'Type': None})
  plt.close(figure)
  return file.getvalue()
