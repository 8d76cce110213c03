"""The limits that keep every part of the project easy to read, and names that mean one thing."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
  path.relative_to(ROOT)
  for folder in ('moonshine_jax', 'configs', 'launch', 'benchmarks', 'tests')
  for path in sorted((ROOT / folder).rglob('*.py'))
  if not {'configs', 'launch'} & set(path.relative_to(ROOT / folder).parts[:-1]) or folder == 'tests'
]
LINES_OF_FILE, LINES_OF_FUNCTION = 300, 60
# What several modules offer alike: commands, and the formats of export, which are chosen among by name.
INTERFACES = {'main', 'convert', 'load', 'runtime_version'}


@pytest.mark.parametrize('path', FILES, ids=str)
def test_files_and_functions_are_short(path):
  text = (ROOT / path).read_text()
  assert len(text.splitlines()) <= LINES_OF_FILE
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.FunctionDef):
      assert node.end_lineno - node.lineno < LINES_OF_FUNCTION, node.name


def test_no_two_public_things_have_one_name():
  modules = defaultdict(list)
  for path in FILES:
    if path.parts[0] == 'moonshine_jax' or path.parts[0] == 'launch':
      for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith('_'):
          modules[node.name].append(str(path))
  assert {name: paths for name, paths in modules.items() if len(paths) > 1 and name not in INTERFACES} == {}
