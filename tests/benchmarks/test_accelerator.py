"""The plan: what is run, in which order, in how many minutes, and what the same command does next; by pieces that only
say that they ran. The real pieces' commands parse with the real flags."""

import argparse
import importlib
import re
import shlex
import sys
import types
from pathlib import Path

import filelock
import pytest

from benchmarks import accelerator, plan
from benchmarks.pieces import PAUSED, Piece, read_outcome
from moonshine_jax.cli import app
from moonshine_jax.cli.command import COMMANDS
from moonshine_jax.errors import UserError

DEVICE = """-c "import json; json.dump({'environment': {'backend': 'gpu', 'device': 'H100'}}, open('{rows}', 'w'))" """


def piece(name, seconds=5, command=None, **fields):
  return Piece(name, seconds, f'for {name}', command or f"-c \"open('{{out}}/log', 'a').write('{name} ')\"", **fields)


def run(folder, *pieces, minutes=1.0, rehearse=False):
  """Runs a plan; returns whether anything is left, and the names of the pieces that were run."""
  flags = types.SimpleNamespace(out=folder, minutes=minutes, rehearse=rehearse, data_name='digits', data_dir='')
  (folder / 'log').unlink(missing_ok=True)
  left = accelerator.Run(flags, pieces).go_on()
  return left, (folder / 'log').read_text().split() if (folder / 'log').exists() else []


@pytest.fixture
def device():
  return piece('device', command=DEVICE, always=True)


def test_done_pieces_are_left_out_and_what_does_not_fit_waits(tmp_path, device, capsys):
  pieces = (device, piece('first'), piece('long', 120), piece('other', backend='tpu'), piece('last'))
  assert run(tmp_path, *pieces) == (True, ['first', 'last'])
  summary = (tmp_path / 'summary.txt').read_text()
  assert summary in capsys.readouterr().out
  assert 'H100: 3 of 4 pieces done' in summary and 'left, waits for 120 s' in summary and 'other' not in summary
  assert summary.endswith('the same command goes on with long\n')
  assert run(tmp_path, *pieces, minutes=3) == (False, ['long'])
  assert (tmp_path / 'summary.txt').read_text().endswith('nothing is left\n')
  capsys.readouterr()
  assert run(tmp_path, *pieces) == (False, [])
  assert 'for device; for at most' not in capsys.readouterr().out  # nor does it look at the device


def test_a_piece_that_fails_is_told_and_the_next_runs(tmp_path, device, capsys):
  failing = piece('failing', command="-c \"open('{out}/log', 'a').write('failing '); raise ValueError('broken')\"")
  pieces = (device, failing, piece('next', needs=('failing',)), piece('last'))
  assert run(tmp_path, *pieces) == (True, ['failing', 'last'])
  output = capsys.readouterr().out
  assert 'failing: failed, ' in output and 'try 1 of 2: ValueError: broken' in output and 'waits for failing' in output
  assert run(tmp_path, *pieces) == (False, ['failing'])  # its second try; what needs it is given up with it
  assert run(tmp_path, *pieces) == (False, [])


def test_a_lasting_piece_takes_what_is_left_and_goes_on(tmp_path, device, monkeypatch):
  monkeypatch.setattr(plan, 'GRACE', 1)
  monkeypatch.setattr(plan, 'FINISH', 1)
  waits = (
    "-c \"import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); open('{out}/log', 'a')"
    ".write('lasting '); time.sleep(60)\""
  )
  pieces = (device, piece('lasting', 1, waits, lasting=True), piece('after', 1))
  assert run(tmp_path, *pieces, minutes=0.1) == (True, ['lasting'])
  assert read_outcome(tmp_path / 'lasting').state == PAUSED
  pieces = (device, piece('lasting', lasting=True), piece('after', 1))
  assert run(tmp_path, *pieces) == (False, ['lasting', 'after'])


def test_a_piece_whose_module_is_missing_is_left_out(tmp_path, device, capsys):
  assert run(tmp_path, device, piece('compiled', module='no_such_module'), piece('last')) == (False, ['last'])
  assert 'compiled is left out: no_such_module is not installed' in capsys.readouterr().out


def test_variables_are_those_of_the_piece_beside_the_users(tmp_path, device, monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--mine')
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
  names = ('XLA_FLAGS', 'JAX_COMPILATION_CACHE_DIR', 'JAX_PLATFORMS')
  say = f"-c \"import os; print(*(os.environ.get(name) for name in {names}), file=open('{{out}}/log', 'a'))\""
  pieces = (device, piece('set', command=say, variables='XLA_FLAGS=--its JAX_PLATFORMS=cpu'))
  assert run(tmp_path, *pieces)[1] == ['--mine', '--its', str(tmp_path / 'cache'), 'cpu']


def test_without_a_device_nothing_is_measured(tmp_path):
  none = piece('device', command='-c "raise SystemExit(\'error: no accelerator\')"', always=True)
  with pytest.raises(UserError, match='^without the device nothing is measured: error: no accelerator$'):
    run(tmp_path, none, piece('first'))
  assert not (tmp_path / 'first').exists()


def test_a_folder_is_of_one_device_and_of_one_run_at_a_time(tmp_path, device):
  waiting = piece('waiting', 120)
  run(tmp_path, device, waiting)
  with pytest.raises(UserError, match='begun with rehearse False, now True: expected another folder'):
    run(tmp_path, device, waiting, rehearse=True)
  with pytest.raises(UserError, match='begun with device H100, now H200: expected another folder'):
    run(tmp_path, device._replace(command=DEVICE.replace('H100', 'H200')), waiting)
  with filelock.FileLock(tmp_path / '.lock'), pytest.raises(UserError, match='another run works there'):
    run(tmp_path, device, waiting)


@pytest.mark.parametrize('flags', [['--minutes=0', '--out=x'], ['--out'], ['--out=x', '--netwroks=S'], []])
def test_bad_flags_are_one_line(flags, capsys):
  with pytest.raises(SystemExit) as ended:
    accelerator.main(flags)
  assert ended.value.code == 2
  assert capsys.readouterr().err.count('\n') == 1


def test_the_guides_commands_parse(monkeypatch):
  class Nothing(types.SimpleNamespace):
    def go_on(self):
      return False

  guide = Path(accelerator.__file__).parents[1] / 'docs/guides/accelerator.md'
  lines = re.findall(r'python -m benchmarks.accelerator (.*)', guide.read_text() + accelerator.__doc__)
  monkeypatch.setattr(accelerator, 'Run', lambda flags, pieces: Nothing())
  assert len(lines) == 4
  for line in lines:
    with pytest.raises(SystemExit) as ended:
      accelerator.main(shlex.split(line, comments=True))
    assert ended.value.code == 0


class ParsedError(Exception):
  pass


@pytest.mark.parametrize('rehearse', [False, True], ids=['real', 'rehearsal'])
@pytest.mark.parametrize('piece', accelerator.PIECES, ids=lambda piece: piece.name)
def test_commands_parse_with_the_real_flags(piece, rehearse, tmp_path, monkeypatch):
  flags = types.SimpleNamespace(out=tmp_path, minutes=1, rehearse=rehearse, data_name='digits', data_dir='/data')
  dash, module, *arguments = accelerator.Run(flags, accelerator.PIECES)._arguments(piece)
  assert dash == '-m' and '{' not in ''.join(arguments)
  if module.startswith('moonshine_jax'):
    command = 'train' if module.endswith('main') else arguments.pop(0)
    monkeypatch.setattr(sys, 'argv', ['moonshine'])
    values, _ = app._parse(COMMANDS[command], arguments)
    assert command != 'train' or (values.config.data.name, values.config.data.data_dir) == ('digits', '/data')
    return
  parse = argparse.ArgumentParser.parse_args

  def parse_and_stop(self, *args):
    raise ParsedError(parse(self, *args))

  (tmp_path / piece.name).mkdir()  # as before it is run
  monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse_and_stop)
  with pytest.raises(ParsedError) as parsed:
    importlib.import_module(module).main(arguments)
  assert parsed.value.args[0].json == str(tmp_path / piece.name / 'rows.json')


def test_needs_are_of_earlier_pieces():
  names = [piece.name for piece in accelerator.PIECES]
  assert len(set(names)) == len(names)
  for i, each in enumerate(accelerator.PIECES):
    assert set(each.needs) <= set(names[:i])
