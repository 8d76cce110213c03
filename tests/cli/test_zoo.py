"""The list of the networks that come with the package, and files of others: commands that take them for workdirs."""

import json
import sys
import types
from pathlib import Path

import pytest

from moonshine_jax.cli import app, export
from moonshine_jax.errors import UserError
from moonshine_jax.workdir.network_file import NetworkFile
from moonshine_jax.workdir.trained import Trained
from moonshine_jax.workdir.zoo import zoo_names
from tests.workdir.test_sharing import make_workdir

NAME = 'zoo:wrn-16-1-cifar10'


@pytest.fixture
def moonshine(monkeypatch, capsys):
  """A function that runs a command in this process, and returns its exit status, its output and its errors."""

  def run(*arguments):
    monkeypatch.setattr(sys, 'argv', ['moonshine', *arguments])
    status = 0
    try:
      app.main()
    except SystemExit as exit:
      status = exit.code
    return status, *capsys.readouterr()

  return run


def test_the_list(moonshine):
  status, output, errors = moonshine('zoo')
  assert (status, errors) == (0, '')
  header, *lines = output.splitlines()
  assert header.split()[:3] == ['name', 'network', 'data']
  rows = {line.split()[0]: line.split() for line in lines[: len(zoo_names())]}
  assert list(rows) == zoo_names()
  # The paper's way of counting and the errors of the run, by hand.
  assert rows[NAME][:-1] == [NAME, 'WRN-16-1', 'S', 'cifar10', '175,994', '26,657,408', '13.32']
  assert f'{NAME}: one run of 20 epochs, seed 0, ' in output and 'commit 76b7877, ' in output
  assert 'zoo:wrn-40-2-cifar10: one run of 200 epochs, as it was after 180, seed 0, ' in output
  assert 'commit b8eb387+, jaxlib 0.11.2, NVIDIA H200' in output
  row = next(row for row in json.loads(moonshine('zoo', '--json')[1]) if row['name'] == NAME)
  assert (row['test_error'], row['seed'], row['starts'], row['trained_on'][-16:]) == (13.32, 0, 7, 'cifar.py:cifar10')


def test_a_file_of_a_run_is_read_by_other_commands(moonshine, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  make_workdir(tmp_path / 'runs')
  assert moonshine('zoo', 'add', 'runs', '--out=a.onnx')[::2] == (
    2,
    'error: --out=a.onnx: expected a file that ends in .safetensors\n',
  )
  status, output, errors = moonshine('zoo', 'add', 'runs', '--out=a.safetensors')
  assert (status, errors) == (0, '') and output.startswith('written: a.safetensors: test error 4.50%, as the run has ')
  assert moonshine('zoo', 'add', 'runs', '--out=a.safetensors')[::2] == (
    2,
    'error: a.safetensors: is there already: expected a new file: remove it, or name another by --out\n',
  )
  of_file, of_workdir = (moonshine('cost', f'--workdir={workdir}')[1] for workdir in ('a.safetensors', 'runs'))
  assert of_file == of_workdir and 'WRN-10-1 S' in of_file
  assert sorted(path.name for path in tmp_path.iterdir()) == ['a.safetensors', 'runs']


def test_of_which_epoch_a_file_is_is_told(moonshine, tmp_path, monkeypatch):
  monkeypatch.setattr('moonshine_jax.cli.zoo_add.share_network', lambda *_: NetworkFile('zoo:wrn-40-2-cifar10'))
  output = moonshine('zoo', 'add', 'runs', f'--out={tmp_path}/a.safetensors')[1]
  assert ': test error 5.01% after 180 of 200 epochs, as the run has recorded it\n' in output


def test_a_name_for_a_workdir(moonshine, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  status, output, errors = moonshine('cost', f'--workdir={NAME}', '--json')
  (row,) = json.loads(output)['rows']
  assert (status, errors, row['parameters'], row['workdir']) == (0, '', 175_994, NAME)
  for command, flags in (
    ('cost', ['--workdir=zoo:wrn']),
    ('evaluate', ['--workdir=zoo:wrn']),
    ('export', ['--workdir=zoo:wrn', '--format=stablehlo']),
    ('attention', ['--workdirs=zoo:wrn', '--out=a.png']),
    ('search', ['--teacher=zoo:wrn', '--out=search', '--max_params=1']),
    ('sweep', ['--config=digits', '--out=sweep', '--config.distill.teacher=zoo:wrn']),
  ):
    status, output, errors = moonshine(command, *flags)
    assert (status, output) == (2, '') and errors.startswith('error: zoo:wrn: no such network in the package: '), (
      command
    )
  assert not list(tmp_path.iterdir())


def test_an_export_of_a_name_goes_here():
  values, runtime = types.SimpleNamespace(out=None, int8=True), types.SimpleNamespace(SUFFIX='.onnx')
  assert export.destination(NAME, values, runtime) == Path('wrn-16-1-cifar10.int8.onnx')
  assert export.destination('runs/x', values, runtime) == Path('runs/x/network.int8.onnx')
  values.workdir = [NAME, 'runs/x', NAME]
  with pytest.raises(UserError, match='^wrn-16-1-cifar10.int8.onnx: the file of two networks: expected one'):
    export.destinations(values, runtime)


def test_its_data_may_have_another_name(tiny_images):
  trained = Trained.open(NAME).with_data('tiny_images', tiny_images)
  assert (trained.config.data.name, trained.config.data.data_dir) == ('tiny_images', tiny_images)
  assert Trained.open(NAME).with_data(None, 'there').config.data.to_dict() == {
    **Trained.open(NAME).config.data.to_dict(),
    'data_dir': 'there',
  }
