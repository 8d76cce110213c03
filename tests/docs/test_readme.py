"""README and the other documents at the root: their length, tables, links, and Python."""

import re
import runpy
from pathlib import Path

import pytest

from moonshine_jax.report import runs as runs_lib
from moonshine_jax.training.evaluation import evaluate_workdir

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
  path
  for folder in ('.', '.github', '.github/ISSUE_TEMPLATE', 'benchmarks', 'launch', 'results')
  for path in (ROOT / folder).glob('*.md')
]
README = (ROOT / 'README.md').read_text()


def python_of(document):
  return re.findall(r'^```python\n(.*?)^```', (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)


def test_it_is_one_page():
  assert len(README.splitlines()) <= 130
  assert max(map(len, re.sub(r'^\|.*', '', README, flags=re.MULTILINE).splitlines())) <= 120


@pytest.mark.parametrize('path', sorted(ROOT.glob('results/*.json')), ids=lambda path: path.name)
def test_committed_runs_are_finished_and_on_the_site(path):
  runs = runs_lib.read_runs(path)
  assert all(run.finished and run.starts[0]['commit'] for run in runs)
  assert '+' not in ''.join(run.starts[0]['commit'] for run in runs)  # a commit without changes
  assert f'<!-- generated: runs {path.name} -->' in (ROOT / 'docs/results/accuracy.md').read_text()


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_files(path):
  for target in re.findall(r'\]\(([^)#]+)(?:#[^)]*)?\)', path.read_text()):
    assert target.startswith('https://') or (path.parent / target).exists(), target


def test_its_python_distils(small_runs, tmp_path, monkeypatch, capsys):
  (program,) = python_of('README.md')
  for full, reduced in (('range(60)', 'range(2)'), ("'epochs': 20", "'epochs': 1"), ("['G(N/8)', 'B(2)']", "'G(N/8)'")):
    assert full in program
    program = program.replace(full, reduced)
  (tmp_path / 'mine.py').write_text(program)
  monkeypatch.chdir(tmp_path)
  runpy.run_path(str(tmp_path / 'mine.py'), run_name='__main__')
  printed = capsys.readouterr().out
  assert re.search(r'Conv_1 +convolution 3x3, 16 to 32 +G\(N/8\) ', printed)
  assert '| Network (teacher) | S ' in printed and '| Network           | G(N/8) | 7,338 ' in printed
  result = evaluate_workdir('runs/mine/students/block-G-N-8')  # which runs the file, and distils nothing again
  assert f' {result["test_error"]:.2f} (1) ' in printed and capsys.readouterr().out == ''
