"""Drawings for the site, as SVG in the text's own colours: the blocks of Table 1, and the layers of the code."""

import html
from collections.abc import Sequence

from moonshine_jax.models.blocks import Block, Convolution

WIDTH, BOX, GAP, TOP = 126, 34, 14, 44  # pixels: of a drawing, the height of a box, between boxes, above the first
CHANNELS = 64  # of the blocks that are drawn


def blocks(*notations: str) -> str:
  """Draws blocks, each with its own convolutions as `Block` gives them, on 64 channels."""
  figures = ''.join(f'<figure>{_block(notation)}</figure>' for notation in notations)
  return f'<div class="drawings">{figures}</div>'


def _block(notation: str) -> str:
  convolutions = Block.parse(notation).convolutions(CHANNELS, CHANNELS, 1)
  pitch = 2 * (BOX + GAP) - GAP / 2
  bottom = TOP + len(convolutions) * pitch
  middle, side = WIDTH / 2 - 9, WIDTH - 3
  parts = [
    _text(middle, 18, notation, 'font-weight="bold" font-size="15"'),
    _line(middle, 26, middle, TOP),
    _line(middle, 32, side, 32),
    _line(side, 32, side, bottom + 10),
  ]
  for i, convolution in enumerate(convolutions):
    top = TOP + i * pitch
    parts += [
      _box(middle, top, 'BN, ReLU', '0.08'),
      _line(middle, top + BOX, middle, top + BOX + GAP / 2),
      _box(middle, top + BOX + GAP / 2, _describe(convolution), '0.22'),
      _line(middle, top + 2 * BOX + GAP / 2, middle, top + pitch),
    ]
  parts += [
    _line(side, bottom + 10, middle + 9, bottom + 10),
    f'<circle cx="{middle}" cy="{bottom + 10}" r="9" fill="none" stroke="currentColor"/>',
    _line(middle - 4, bottom + 10, middle + 4, bottom + 10),
    _line(middle, bottom + 6, middle, bottom + 14),
    _line(middle, bottom - 2, middle, bottom + 1),
    _line(middle, bottom + 19, middle, bottom + 28),
  ]
  title = f'{notation}: {", ".join(_describe(convolution) for convolution in convolutions)}, beside a shortcut'
  return _svg(WIDTH, bottom + 32, title, parts)


def _describe(convolution: Convolution) -> str:
  size = f'{convolution.kernel}x{convolution.kernel}'
  if convolution.dilation > 1:
    return f'{size}, dilated by {convolution.dilation}'
  if convolution.groups > 1:
    return f'{size}, {convolution.groups} groups'
  return size if convolution.features == CHANNELS else f'{size} to {convolution.features}'


def layers() -> str:
  """Draws the layers of the import contract in pyproject.toml, from the top."""
  from reference import contract  # which reads it

  rows = contract()
  width, height, gap = 640, 40, 8
  parts = []
  for i, row in enumerate(rows):
    share = (width - (len(row) - 1) * gap) / len(row)
    for j, name in enumerate(row):
      left, top = j * (share + gap), i * (height + gap)
      parts.append(
        f'<rect x="{left + 1:.1f}" y="{top + 1}" width="{share - 2:.1f}" height="{height}" rx="4" '
        f'fill="currentColor" fill-opacity="{0.05 + 0.02 * i:.2f}" stroke="currentColor" stroke-opacity="0.5"/>'
      )
      parts.append(_text(left + share / 2, top + height / 2 + 6, name, 'font-size="16"'))
  title = 'The packages in layers, from the top: ' + ', '.join(' and '.join(row) for row in rows)
  return f'<div class="drawings">{_svg(width, len(rows) * (height + gap), title, parts)}</div>'


def _box(middle: float, top: float, text: str, opacity: str) -> str:
  width = WIDTH - 26
  return (
    f'<rect x="{middle - width / 2}" y="{top}" width="{width}" height="{BOX}" rx="4" fill="currentColor" '
    f'fill-opacity="{opacity}" stroke="currentColor" stroke-opacity="0.6"/>'
    + _text(middle, top + BOX / 2 + 5, text, 'font-size="12"')
  )


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
  return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="currentColor"/>'


def _text(x: float, y: float, text: str, attributes: str) -> str:
  return f'<text x="{x}" y="{y}" text-anchor="middle" fill="currentColor" {attributes}>{html.escape(text)}</text>'


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
  return (
    f'<svg class="drawing" role="img" width="{width}" viewBox="0 0 {width} {height}" '
    f'xmlns="http://www.w3.org/2000/svg"><title>{html.escape(title)}</title>{"".join(parts)}</svg>'
  )
