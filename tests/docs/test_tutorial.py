"""The tutorial: executed in a reduced form, and committed with what the whole of it printed and drew."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]


@pytest.fixture
def notebook():
  return nbformat.read(ROOT / 'docs/tutorial.ipynb', as_version=4)


def kinds_of_output(notebook):
  """For each cell of code, the kinds of what it shows."""
  outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == 'code']
  return [{kind for output in each for kind in (output.get('data') or {output.output_type})} for each in outputs]


@pytest.mark.filterwarnings('ignore')  # Jupyter's own
def test_it_runs(notebook, monkeypatch):
  monkeypatch.setenv('TUTORIAL_QUICK', '1')
  committed = kinds_of_output(notebook)
  NotebookClient(notebook, timeout=300, kernel_name='python3').execute()
  assert kinds_of_output(notebook) == committed


def test_it_is_committed_with_its_plots(notebook):
  shown = kinds_of_output(notebook)
  assert set.union(*shown) == {'stream', 'text/plain', 'image/svg+xml', 'image/png'}
  assert len(str(notebook)) < 1_000_000
