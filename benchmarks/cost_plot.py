"""Draws the plot 'what a multiply-add costs': time per image against multiply-adds, a labelled point per network.

The line is the time that a network would take whose multiply-adds cost what those of WRN-40-2 S do. A point above it
saves less time than multiply-adds; one above the level of S saves none.
"""

import numpy as np

from benchmarks.command import TEACHER
from moonshine_jax.models.blocks import Block
from moonshine_jax.report.figures import PlainFormatter, place_labels, plt

# Colour and marker by kind of block; Okabe and Ito's colours, which the colour-blind can tell apart.
STYLES = {
  'S': ('#000000', 'o'),
  'S-2x2': ('#E69F00', 's'),
  'G': ('#0072B2', '^'),
  'B': ('#D55E00', 'D'),
  'BG': ('#009E73', 'v'),
  'mixed': ('#CC79A7', 'P'),
}


def write_plot(path: str, panels: dict[str, list[tuple[str, float, float]]]) -> None:
  """Writes a figure with a panel for each title.

  Args:
    path: of the file; its suffix says which format.
    panels: by title, the points (network, multiply-adds in millions, milliseconds per image).
  """
  figure, axes = plt.subplots(1, len(panels), figsize=(7.5 * len(panels), 7), layout='constrained', squeeze=False)
  for ax, (title, points) in zip(axes[0], panels.items(), strict=True):
    draw_panel(ax, title, points)
  figure.legend(*axes[0][0].get_legend_handles_labels(), loc='outside lower center', ncols=6, frameon=False, fontsize=9)
  figure.canvas.draw()  # settles the layout, on which the labels' places depend
  for ax, points in zip(axes[0], panels.values(), strict=True):
    place_labels(
      ax, [(name.removeprefix('WRN-40-2 '), madds, ms, STYLES[kind_of(name)][0]) for name, madds, ms in points]
    )
  figure.savefig(path, dpi=120)
  plt.close(figure)


def draw_panel(ax, title: str, points: list[tuple[str, float, float]]) -> None:
  """Draws the points of a panel, the line through S and the axes."""
  ax.set(
    xscale='log', yscale='log', title=title, xlabel='million multiply-adds an image', ylabel='milliseconds an image'
  )
  for axis in (ax.xaxis, ax.yaxis):
    axis.set_major_formatter(PlainFormatter())
    axis.set_minor_formatter(PlainFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.4)))
  ax.margins(0.12)
  for kind, (color, marker) in STYLES.items():
    of_kind = [(madds, ms) for name, madds, ms in points if kind_of(name) == kind]
    if of_kind:
      ax.scatter(*zip(*of_kind, strict=True), s=28, color=color, marker=marker, zorder=3, label=kind)
  ax.set_ylim(ax.get_ylim())  # as the points have set them: the line may leave the panel below
  for name, madds, ms in points:
    if name == str(TEACHER):
      ends = np.array([min(point[1] for point in points), madds])
      ax.plot(ends, ms * ends / madds, color='0.6', linewidth=1, zorder=1, label='at the cost of a multiply-add in S')
  ax.grid(True, which='both', linewidth=0.3, color='0.85')


def kind_of(network: str) -> str:
  """Returns the kind of block of a network, as 'G' for 'WRN-40-2 G(N/8)'."""
  kinds = {block.kind for block in Block.parse_list(network.split(' ')[1])}
  return kinds.pop() if len(kinds) == 1 else 'mixed'
