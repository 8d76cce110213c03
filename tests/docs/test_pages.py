"""Pages that stand beside the code name what the code has."""

import ast
import importlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import moonshine_jax
from moonshine_jax import errors
from moonshine_jax.models.surgery import modes
from moonshine_jax.workdir import checkpoint, metrics, provenance, workdir
from tests.helpers.made_runs import make_run

ROOT = Path(__file__).parents[2]


def page(path):
  return (ROOT / 'docs' / path).read_text()


def test_architecture_describes_every_package_of_the_contract():
  (layers,) = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']['importlinter']['contracts']
  for name in re.split(r'[|\s]+', ' '.join(layers['layers'])):
    assert f'| `{name.removeprefix("moonshine_jax.")}` |' in page('concepts/architecture.md')


def test_files_of_a_workdir_and_exit_statuses():
  for name in (workdir.CONFIG_FILE, workdir.LOCK_FILE, metrics.FILE, provenance.FILE, checkpoint.FOLDER, 'tensorboard'):
    assert f'| `{name}' in page('reference/workdir.md')
  for status in (errors.MISTAKE, errors.RESUME_ME):
    assert f'| {status} |' in page('reference/statuses.md')


def test_words_by_which_a_network_hears_that_it_trains():
  for name in modes.FLAGS:
    assert f'`{name}`' in page('guides/flax.md')


def test_measurements_in_the_pages_are_those_of_the_files(monkeypatch):
  monkeypatch.syspath_prepend(ROOT / 'docs/generate')
  fill = importlib.import_module('fill')
  for path in fill.PAGES:
    assert path.read_text() == fill.with_measurements(path.read_text()), f'run docs/generate/fill.py: {path}'
  assert '<!-- generated: summary ' in (ROOT / 'README.md').read_text()


def test_a_measurement_on_a_cpu_names_its_instructions(monkeypatch):
  monkeypatch.syspath_prepend(ROOT / 'docs/generate')
  sources = importlib.import_module('sources')
  cpu = {'backend': 'cpu', 'processor': 'AMD EPYC', 'device': 'cpu', 'devices': 2, 'cpus': 2, 'jax': '1'}
  assert sources.hardware([cpu]) == '2 devices on 2 cores of AMD EPYC; jax 1'  # of an older file
  cpu |= {'instruction_sets': ['avx', 'avx2', 'fma']}
  assert sources.hardware([cpu]) == '2 devices on 2 cores of AMD EPYC with AVX2; jax 1'


def test_errors_by_epoch_are_means_over_seeds(monkeypatch):
  monkeypatch.syspath_prepend(ROOT / 'docs/generate')
  accuracy = importlib.import_module('accuracy')
  blocks = {'model.block': 'B(2)', 'distill.start': 'blockwise', 'blockwise.epochs': 3}
  runs = [
    make_run('a', [9.0, 5.0], **blocks),
    make_run('b', [8.0, 6.0], **blocks, seed=1),
    make_run('c', [7.0, 4.0], **blocks, **{'optimizer.learning_rate': 0.02}),
  ]
  monkeypatch.setattr(accuracy.runs_lib, 'read_runs', lambda path: runs)
  rows = [
    [cell.strip() for cell in line.split('|')[1:-1]] for line in accuracy.by_epoch('file', '1', '4', '5').split('\n')
  ]
  assert rows[0] == ['block', 'starts from', 'learning rate', 'runs', 'after 1', 'after 4', 'after 5']
  assert rows[2:] == [
    ['`B(2)`', 'blocks', '0.02', '1', '-', '7.00', '4.00'],
    ['`B(2)`', 'blocks', '0.1', '2', '-', '8.50', '5.50'],
  ]


def test_every_page_is_in_the_navigation():
  navigation = (ROOT / 'mkdocs.yml').read_text()
  for path in (ROOT / 'docs').rglob('*.*'):
    if path.suffix in ('.md', '.ipynb') and '.cache' not in path.parts:
      assert f'- {path.relative_to(ROOT / "docs")}\n' in navigation


@pytest.mark.parametrize('path', sorted((ROOT / 'docs').rglob('*.md')), ids=lambda path: path.stem)
def test_links_lead_to_files_without_the_site_too(path):
  for target in re.findall(r'\]\(([^)#]+)(?:#[^)]*)?\)', path.read_text()):
    assert target.startswith('https://') or (path.parent / target).exists(), target


def test_links_to_the_repository_lead_to_pages_on_the_site(monkeypatch):
  monkeypatch.syspath_prepend(ROOT / 'docs/generate')
  linked = importlib.import_module('reference').linked
  text = '[a](../../launch/README.md) [b](../../moonshine_jax/models/surgery) [c](sweeps.md#x) [d](../index.md)'
  assert linked('guides/devices.md', text) == (
    '[a](clusters.md) [b](../reference/api/surgery.md) [c](sweeps.md#x) [d](../index.md)'
  )
  assert linked('index.md', '[a](../SECURITY.md#how)') == '[a](security.md#how)'


def test_the_citation_is_of_this_version():
  assert yaml.safe_load((ROOT / 'CITATION.cff').read_text())['version'] == moonshine_jax.__version__


@pytest.mark.parametrize('path', sorted((ROOT / 'docs').rglob('*.md')), ids=lambda path: path.stem)
def test_python_of_the_pages_compiles(path):
  for program in re.findall(r'^```python\n(.*?)^```', path.read_text(), re.MULTILINE | re.DOTALL):
    ast.parse(program)
