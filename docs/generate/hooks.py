"""What MkDocs calls when it builds the site. Nothing here compiles or fetches anything."""

import fill
import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


def on_files(files: Files, config: MkDocsConfig) -> Files:
  """Adds the pages that are made whole."""
  for path, text in {**reference.api_pages(), **reference.project_pages()}.items():
    files.append(File.generated(config, path, content=text))
  return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
  """Fills the marked places of a page, and points its links at pages of the site."""
  return reference.linked(page.file.src_uri, fill.filled(markdown))
