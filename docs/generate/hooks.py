"""Puts into the pages of the site what comes from the code and from results/, each time that it is built.

A line `<!-- generated: NAME ARGUMENTS -->` of a page becomes what the function of that name below returns. Pages that
have nothing of their own are made whole. Nothing here compiles or fetches anything.
"""

import re
from collections.abc import Callable

import drawings
import measurements
import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

MARKER = re.compile(r'^<!-- generated: (\w+)(.*) -->$', re.MULTILINE)
GENERATORS: dict[str, Callable[..., str]] = {
  'blocks': drawings.blocks,
  'commands': reference.commands,
  'config': reference.config_fields,
  'configs': reference.configs,
  'layers': drawings.layers,
  'counts': measurements.counts,
  'regimes': measurements.regimes,
  'runs': measurements.runs,
  'train_step': measurements.train_step,
  'inference': measurements.inference,
  'step_loop': measurements.step_loop,
  'roofline': measurements.roofline,
  'compilation': measurements.compilation,
  'host_memory': measurements.host_memory,
  'image_feed': measurements.image_feed,
  'exports': measurements.exports,
  'tpu_formulations': measurements.tpu_formulations,
  'tpu_steps': measurements.tpu_steps,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
  """Adds the pages that are made whole."""
  for path, text in {**reference.api_pages(), **reference.project_pages()}.items():
    files.append(File.generated(config, path, content=text))
  return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
  """Fills in the marked lines of a page."""
  return MARKER.sub(lambda marker: GENERATORS[marker[1]](*marker[2].split()), markdown)
