"""The wheel: built from the files of this tree, and looked into."""

import configparser
import email
import importlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import moonshine_jax

ROOT = Path(__file__).parents[1]
SOURCES = ('moonshine_jax', 'configs', 'launch', 'tests', 'benchmarks', 'setup.py', 'pyproject.toml', 'README.md')
# Files of the packages that are no code: by folder.
DATA = {
  'moonshine_jax': ['py.typed'],
  'moonshine_jax/launch': ['*.sbatch', '*.sh', '*.yaml', 'Dockerfile', 'README.md'],
  'moonshine_jax/report/templates': ['*'],
  'moonshine_jax/zoo': ['*.safetensors'],
}


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """The wheel, built by the backend that pip would call, of a copy: a build leaves its files beside the sources."""
  tree = tmp_path_factory.mktemp('tree')
  for name in (*SOURCES, 'LICENSE'):
    copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
    options = {'symlinks': True, 'ignore': shutil.ignore_patterns('__pycache__')} if copy is shutil.copytree else {}
    copy(ROOT / name, tree / name, **options)
  build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
  subprocess.run([sys.executable, '-c', build], cwd=tree, check=True, capture_output=True, text=True)
  (path,) = (tree / 'dist').iterdir()
  with zipfile.ZipFile(path) as file:
    yield file


def metadata_of(wheel, name):
  (path,) = [path for path in wheel.namelist() if path.endswith(f'.dist-info/{name}')]
  return wheel.read(path).decode()


def code_in(folder, package):
  return {f'{package}/{path.relative_to(folder)}' for path in folder.rglob('*.py')}


def test_it_has_every_file_of_the_packages_and_no_other(wheel):
  code = code_in(ROOT / 'moonshine_jax', 'moonshine_jax')
  code |= code_in(ROOT / 'configs', 'moonshine_jax/configs') | code_in(ROOT / 'launch', 'moonshine_jax/launch')
  data = {
    str(path.relative_to(ROOT))
    for folder, patterns in DATA.items()
    for pattern in patterns
    for path in (ROOT / folder).glob(pattern)
  }
  names = {path for path in wheel.namelist() if '.dist-info/' not in path}
  assert names == code | data
  for name in ('configs/digits.py', 'launch/sweep.py', 'launch/train.sh', 'py.typed', 'report/templates/page.css'):
    assert f'moonshine_jax/{name}' in names


def test_every_file_beside_the_code_is_packaged():
  beside = {
    path.relative_to(ROOT)
    for folder in ('moonshine_jax', 'configs', 'launch')
    for path in (ROOT / folder).rglob('*')
    if path.is_file() and path.suffix != '.py' and '__pycache__' not in path.parts
  }
  packaged = {
    path.resolve().relative_to(ROOT)
    for folder, patterns in DATA.items()
    for pattern in patterns
    for path in (ROOT / folder).glob(pattern)
  }
  assert beside == packaged


def test_its_networks_are_small(wheel):
  sizes = [info.compress_size for info in wheel.infolist() if info.filename.startswith('moonshine_jax/zoo/')]
  assert sizes and sum(sizes) <= 10e6


def test_it_says_what_it_is(wheel):
  metadata = email.message_from_string(metadata_of(wheel, 'METADATA'))
  assert (metadata['Name'], metadata['Version']) == ('moonshine-jax', moonshine_jax.__version__)
  assert metadata['License'] == 'Apache-2.0' and metadata['Requires-Python'] == '>=3.11'
  assert metadata['Author'] and metadata['Keywords'] and metadata.get_all('Project-URL')
  assert metadata['Description-Content-Type'] == 'text/markdown'
  assert metadata.get_payload().startswith('# Moonshine JAX')
  assert 'Typing :: Typed' in metadata.get_all('Classifier')


def test_it_brings_the_command(wheel):
  scripts = configparser.ConfigParser()
  scripts.read_string(metadata_of(wheel, 'entry_points.txt'))
  assert dict(scripts['console_scripts']) == {'moonshine': 'moonshine_jax.cli.app:main'}
  module, function = scripts['console_scripts']['moonshine'].split(':')
  assert callable(getattr(importlib.import_module(module), function))


def test_its_configs_load_outside_the_clone(wheel, tmp_path):
  wheel.extractall(tmp_path)
  program = (
    'import importlib, pathlib, moonshine_jax.configs as configs\n'
    'folder = pathlib.Path(configs.__file__).parent\n'
    'for path in sorted(folder.glob("[a-z]*.py")):\n'
    '  importlib.import_module(f"moonshine_jax.configs.{path.stem}").get_config()\n'
    '  print(path)\n'
  )
  result = subprocess.run(
    [sys.executable, '-c', program],
    cwd=tmp_path,
    env={'PYTHONPATH': str(tmp_path)},
    capture_output=True,
    text=True,
    check=True,
  )
  expected = sorted(path.name for path in (ROOT / 'configs').glob('[a-z]*.py'))
  assert result.stdout.splitlines() == [f'{tmp_path}/moonshine_jax/configs/{name}' for name in expected]
