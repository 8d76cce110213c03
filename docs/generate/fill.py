"""Fills marked places of pages with what comes from the code and from results/.

A line `<!-- generated: NAME ARGUMENTS -->` stands for what the function of that name below returns. Measurements are in
the files too, up to a line `<!-- end -->`, for those who read the pages where no site is built:

    .venv/bin/python docs/generate/fill.py

writes them anew, into README as well. The site makes all of it anew each time that it is built.
"""

import re
from collections.abc import Callable
from pathlib import Path

import accuracy
import drawings
import measurements
import reference

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md')))
MARKER = re.compile(r'^<!-- generated: (\w+)(.*?) -->$(?:\n\n(?:(?!<!-- ).*\n)*?\n?<!-- end -->$)?', re.MULTILINE)
MEASURED: dict[str, Callable[..., str]] = {
  'by_epoch': accuracy.by_epoch,
  'compilation': measurements.compilation,
  'counts': measurements.counts,
  'cuda_graphs': measurements.cuda_graphs,
  'exports': measurements.exports,
  'forms': accuracy.forms,
  'front': accuracy.front,
  'gpu_steps': measurements.gpu_steps,
  'host_memory': measurements.host_memory,
  'image_feed': measurements.image_feed,
  'folder_feed': measurements.folder_feed,
  'inference': measurements.inference,
  'loss_speeds': measurements.loss_speeds,
  'mixtures': accuracy.mixtures,
  'regimes': accuracy.regimes,
  'roofline': measurements.roofline,
  'runs': accuracy.runs,
  'step_loop': measurements.step_loop,
  'summary': accuracy.summary,
  'tpu_formulations': measurements.tpu_formulations,
  'tpu_steps': measurements.tpu_steps,
  'train_step': measurements.train_step,
  'zoo': measurements.zoo,
}
GENERATORS = MEASURED | {
  'blocks': drawings.blocks,
  'commands': reference.commands,
  'config': reference.config_fields,
  'configs': reference.configs,
  'layers': drawings.layers,
}


def filled(text: str) -> str:
  """Returns the page as the site shows it: what is generated in place of its markers."""
  return MARKER.sub(lambda marker: GENERATORS[marker[1]](*marker[2].split()), text)


def with_measurements(text: str) -> str:
  """Returns the page as its file has it: its markers stay, each followed by its measurements."""

  def fill(marker: re.Match) -> str:
    name, arguments = marker[1], marker[2]
    if name not in MEASURED:
      return marker[0]
    return f'<!-- generated: {name}{arguments} -->\n\n{MEASURED[name](*arguments.split())}\n\n<!-- end -->'

  return MARKER.sub(fill, text)


if __name__ == '__main__':
  for path in PAGES:
    path.write_text(with_measurements(path.read_text('utf-8')), 'utf-8')
