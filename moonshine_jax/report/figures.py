"""Figures 3 and 4 of the paper, learning curves, and how all plots look: needs Matplotlib, the extra `report`."""

import contextlib
import dataclasses
import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import matplotlib

matplotlib.use('Agg')  # writes files and needs no screen

import matplotlib.pyplot as plt
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter, MaxNLocator

from moonshine_jax.errors import printable
from moonshine_jax.models.blocks import Block
from moonshine_jax.report.tables import Table, TableRow

# Colour and marker of each kind of network; the colours are the paper's.
STYLES = {
  'teacher': ('black', '*'),
  'S, reduced architecture': ('tab:red', 'o'),
  'G': ('tab:green', '^'),
  'B': ('tab:blue', 'D'),
  'BG': ('tab:cyan', 'v'),
  'S-2x2': ('tab:orange', 's'),
  'mixed': ('tab:gray', 'P'),
}
# Text stays text in SVG, and the same figure gives the same bytes. A dollar in a name begins no formula.
SVG_SETTINGS: dict[Any, Any] = {
  'svg.fonttype': 'none',
  'svg.hashsalt': 'moonshine',
  'font.size': 9,
  'axes.titlesize': 10,
  'text.parse_math': False,
}
MAX_LABEL = 90  # characters
# Where a label may lie, as (x, y, alignment) from its point, in typographic points: right, left, above, below, at the
# corners, then the same farther off.
LABEL_OFFSETS = [
  (x, y, 'left' if x > 0 else 'right' if x < 0 else 'center')
  for distance in (1, 2, 3, 4.5, 6)
  for x, y in (
    (7 * distance, 0),
    (-7 * distance, 0),
    (0, 8 * distance),
    (0, -8 * distance),
    (6 * distance, 7 * distance),
    (-6 * distance, 7 * distance),
    (6 * distance, -7 * distance),
    (-6 * distance, -7 * distance),
  )
]


@contextlib.contextmanager
def plot_settings() -> Iterator[None]:
  """Sets how all plots look, while entered."""
  with plt.rc_context(SVG_SETTINGS), warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'Glyph .* missing from font')  # the reader of an SVG has other fonts
    yield


def label_text(text: str) -> str:
  """Returns a text of runs as a figure shows it: printable, and cut where it would crush the axes."""
  text = printable(text)
  return text if len(text) <= MAX_LABEL else text[: MAX_LABEL - 3] + '...'


class PlainFormatter(LogFormatter):
  """Writes the labels of a log axis as 0.3 and 20, not as 3e-01 and 2x10^1; Matplotlib chooses which ticks have one."""

  def __call__(self, x: float, pos: int | None = None) -> str:
    """Returns the label of the tick at x; empty if Matplotlib gives it none."""
    return f'{x:g}' if super().__call__(x, pos) else ''


def place_labels(ax: Any, labels: Iterable[tuple[str, float, float, str]]) -> None:
  """Labels the points of a drawn figure's axes so that no label hides another or a point.

  A label lies at the first of LABEL_OFFSETS where it meets no other point, no label before it and no edge; if there is
  none, at the last.

  Args:
    ax: axes of a figure whose canvas has been drawn.
    labels: (text, x, y, colour) of each point, in the units of the axes.
  """
  renderer = ax.figure.canvas.get_renderer()
  labels = list(labels)
  centres = ax.transData.transform([(x, y) for _, x, y, _ in labels])
  radius = 4 * ax.figure.dpi / 72
  placed: list[Any] = []
  for (text, x, y, color), centre in zip(labels, centres, strict=True):
    other_centres = [other for other in centres if tuple(other) != tuple(centre)]
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
    label.set_in_layout(False)  # the axes do not shrink for a long name
    for dx, dy, alignment in LABEL_OFFSETS:
      label.set_position((dx, dy))
      label.set_horizontalalignment(alignment)
      label.update_positions(renderer)
      box = Text.get_window_extent(label, renderer)
      inside = ax.bbox.x0 < box.x0 and box.x1 < ax.bbox.x1 and ax.bbox.y0 < box.y0 and box.y1 < ax.bbox.y1
      if (
        inside
        and not any(box.overlaps(other) for other in placed)
        and not any(box.padded(radius).contains(*other) for other in other_centres)
      ):
        break
    placed.append(box)


@dataclasses.dataclass(frozen=True)
class Point:
  """A network in a figure of error against cost.

  Attributes:
    label: text beside the point.
    style: name of its style, in STYLES.
    cost: cost, in the unit of the figure's axis.
    error: mean test error, in percent.
    spread: sample standard deviation of the test errors, in percent; None for one run.
  """

  label: str
  style: str
  cost: float
  error: float
  spread: float | None = None


def cost_points(table: Table, method: str, cost: Callable[[TableRow], float | None]) -> list[Point]:
  """Returns the points of the networks that learned by one method, and of the teacher.

  Args:
    table: table of test errors.
    method: method of the students, of `table.methods`.
    cost: function from a row to its cost; a row without a cost, None or 0, has no point.

  Returns:
    A point for each network that has a cost and a finished run.
  """
  first_row = table.rows[0]
  points = []
  for row in table.rows:
    of_teacher = next((cell for cell in row.cells.values() if cell.finished), None)  # which may be a student itself
    cell = of_teacher if row.teacher else row.cells.get(method)
    if cell and cell.mean is not None and (row_cost := cost(row)):
      points.append(Point(_point_label(row, first_row), style_of(row), row_cost, cell.mean, cell.spread))
  return points


def style_of(row: TableRow) -> str:
  """Returns the name of a row's style, a key of STYLES."""
  if row.teacher:
    return 'teacher'
  blocks = Block.parse_list(row.block)
  if len(set(blocks)) > 1:
    return 'mixed'
  return 'S, reduced architecture' if blocks[0].kind == 'S' else blocks[0].kind


def _point_label(row: TableRow, first_row: TableRow) -> str:
  """Labels a network as the paper does: '16-2' for a reduced architecture, 'G(N/8)' for another block."""
  architecture = row.network.removeprefix('WRN-')
  if row.teacher:
    text = f'teacher {architecture}'
  elif row.block == 'S':
    text = architecture
  else:
    text = row.block if row.network == first_row.network else f'{architecture} {row.block}'
  return f'{text}, {row.variant}' if row.variant else text


def pareto_front(costs_and_errors: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
  """Returns the Pareto front of (cost, error) pairs, by cost.

  A pair is on the front if no other has a cost and an error as low, with one of the two lower.
  """
  front: list[tuple[float, float]] = []
  for cost, error in sorted(set(costs_and_errors)):
    if not front or error < front[-1][1]:
      front.append((cost, error))
  return front


def cost_figure(points: Sequence[Point], title: str, cost: str) -> str:
  """Draws test error against a cost on a log axis: a curve for each kind of block, and the Pareto front.

  Args:
    points: points of the networks.
    title: title of the figure.
    cost: name of the cost with its unit, which labels the axis.

  Returns:
    The figure as SVG.
  """
  with plot_settings():
    figure, ax = plt.subplots(figsize=(5.2, 5.6), layout='constrained')
    ax.set(xscale='log', title=label_text(title), xlabel=label_text(cost), ylabel='test error (%)')
    ax.xaxis.set_major_formatter(PlainFormatter())
    ax.xaxis.set_minor_formatter(PlainFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    ax.margins(0.12)
    front = pareto_front((point.cost, point.error) for point in points)
    ax.step(
      *zip(*front, strict=True), where='post', color='0.7', linewidth=4, alpha=0.6, zorder=1, label='Pareto front'
    )
    for style, (color, marker) in STYLES.items():
      curve = sorted((point.cost, point.error, point.spread or 0) for point in points if point.style == style)
      if curve:
        x, y, spreads = zip(*curve, strict=True)
        ax.errorbar(
          x,
          y,
          yerr=spreads if any(spreads) else None,
          color=color,
          marker=marker,
          linewidth=1,
          markersize=9 if style == 'teacher' else 5,
          elinewidth=0.7,
          capsize=2,
          label=style,
          zorder=2,
        )
    ax.grid(True, which='both', linewidth=0.3, color='0.85')
    figure.legend(loc='outside lower center', ncols=3, frameon=False)
    figure.canvas.draw()  # settles the layout, on which the labels' places depend
    place_labels(ax, [(label_text(point.label), point.cost, point.error, '0.15') for point in points])
    return _svg(figure)


def learning_curves(table: Table) -> str:
  """Draws the test error of every run by epoch on a log axis, a panel for each method; returns SVG."""
  methods = table.methods_with_runs
  with plot_settings():
    figure, axes = plt.subplots(
      len(methods),
      1,
      figsize=(5.2, 0.6 + 2.2 * len(methods)),
      layout='constrained',
      sharex=True,
      sharey=True,
      squeeze=False,
    )
    figure.suptitle(label_text(f'{table.title}, by epoch'), fontsize='large')
    for ax, method in zip(axes[:, 0], methods, strict=True):
      ax.set(yscale='log', ylabel='test error (%)', title='no distillation' if method == 'none' else label_text(method))
      ax.yaxis.set_major_formatter(PlainFormatter())
      ax.yaxis.set_minor_formatter(PlainFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
      ax.grid(True, which='both', linewidth=0.3, color='0.85')
      for row in table.rows:
        style = style_of(row)
        for run in row.cells[method].runs if method in row.cells else ():
          ax.plot(run.epochs, run.test_errors, color=STYLES[style][0], linewidth=0.8, alpha=0.8, label=style)
    axes[-1, 0].set_xlabel('epoch')
    axes[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    lines = {line.get_label(): line for ax in axes[:, 0] for line in ax.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc='outside lower center', ncols=3, frameon=False)
    return _svg(figure)


def _svg(figure: Any) -> str:
  """Writes a figure as SVG, without the date and the other facts that differ from run to run, and closes it."""
  file = io.StringIO()
  figure.savefig(file, format='svg', metadata={'Date': None, 'Creator': None, 'Format': None, 'Type': None})
  plt.close(figure)
  return file.getvalue()
