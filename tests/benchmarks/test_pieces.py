"""Pieces as processes of a second or two: what becomes of each, and that nothing of it is left running."""

import os
import signal
import subprocess
import sys

import pytest

from benchmarks import pieces
from benchmarks.pieces import DONE, FAILED, OVERRAN, PAUSED, RUNNING, Outcome, Piece, is_left, run_piece
from tests.helpers.waiting import is_running, wait_for

PIECE = Piece('piece', 5, 'a test', '')
SLEEP = 'import time; time.sleep(60)'
SAVES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print('ready', flush=True)
time.sleep(60)
"""


def run(folder, program, seconds=20.0, signals=(), piece=PIECE):
  return run_piece(piece, ['-c', program], folder, seconds, os.environ, signals)


def test_one_that_is_done_is_not_left(tmp_path):
  outcome = run(tmp_path / 'a', "print('measured')")
  assert (outcome.state, outcome.tries, outcome.told) == (DONE, 0, '') and 0 < outcome.seconds < 20
  assert (tmp_path / 'a/stdout.txt').read_text() == 'measured\n'
  assert pieces.read_outcome(tmp_path / 'a') == outcome
  assert not is_left(PIECE, outcome) and is_left(PIECE._replace(always=True), outcome) and is_left(PIECE, None)


def test_one_that_fails_has_two_tries_and_what_each_left_is_kept(tmp_path):
  (tmp_path / 'rows.json').write_text('first')
  for tries in (1, 2):
    outcome = run(tmp_path, f"print('try {tries}'); raise SystemExit('error: no luck {tries}')")
    assert outcome[:2] == (FAILED, tries) and outcome.told == f'error: no luck {tries}'
    assert is_left(PIECE, outcome) == (tries == 1)
  assert (tmp_path / 'stdout.txt').read_text() == 'try 2\n'
  assert (tmp_path / 'stdout_of_try_1.txt').read_text() == 'try 1\n'
  assert (tmp_path / 'rows_of_try_0.json').read_text() == 'first'


@pytest.mark.parametrize(
  ('status', 'errors', 'told'),
  [
    (1, 'Traceback\n  File\njax.JaxRuntimeError: RESOURCE_EXHAUSTED: Out of memory\nmore', 'out of memory'),
    (1, 'torch.OutOfMemoryError: CUDA out of memory.', 'out of memory'),
    (1, 'Traceback\n  File\nValueError: no such thing\n\n', 'ValueError: no such thing'),
    (2, 'usage: x\nx.py: error: argument --batch: too many\n', 'x.py: error: argument --batch: too many'),
    (2, 'error: one clear line\nI0000 a log line of a library\n', 'error: one clear line'),
    (-9, '', 'killed by SIGKILL'),
    (-6, 'F0000 device lost\n', 'killed by SIGABRT: F0000 device lost'),
    (3, '', 'exit status 3'),
  ],
)
def test_why_it_failed_is_one_line(status, errors, told):
  assert pieces.why_it_failed(status, errors) == told


def test_one_that_is_over_its_time_is_stopped_with_its_children(tmp_path):
  program = (
    f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', '{SLEEP}']).pid, flush=True); {SLEEP}"
  )
  outcome = run(tmp_path, program, seconds=1.5)
  assert (outcome.state, outcome.tries, outcome.told) == (OVERRAN, 1, 'stopped at the end of its time')
  child = int((tmp_path / 'stdout.txt').read_text())
  wait_for(lambda: not is_running(child), seconds=20)


def test_one_that_does_not_hear_is_killed(tmp_path, monkeypatch):
  monkeypatch.setattr(pieces, 'GRACE', 0.5)
  outcome = run(tmp_path, f'import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}', seconds=1.0)
  assert outcome.state == OVERRAN and outcome.seconds < 15


def test_a_lasting_one_saves_and_goes_on(tmp_path):
  lasting = PIECE._replace(lasting=True)
  for _ in range(3):
    outcome = run(tmp_path, SAVES, seconds=1.1, piece=lasting)
    assert outcome[:2] == (PAUSED, 0) and is_left(lasting, outcome)
  assert outcome.seconds > 3


def test_a_try_that_a_signal_ends_does_not_count(tmp_path):
  outcome = run(tmp_path, SLEEP, signals=['SIGTERM'])
  assert outcome[:2] == (PAUSED, 0) and is_left(PIECE, outcome)


def test_signals_are_noted_while_entered():
  before = signal.getsignal(signal.SIGTERM)
  with pieces.noted_signals() as signals:
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals == ['SIGTERM']
  assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.skipif(sys.platform != 'linux', reason='Linux alone tells a process of the death of its parent')
def test_one_does_not_outlive_the_command(tmp_path):
  program = f"""
import os
from pathlib import Path
from benchmarks.pieces import Piece, run_piece
program = "import os; print(os.getpid(), flush=True); {SLEEP}"
run_piece(Piece('piece', 60, '', ''), ['-c', program], Path({str(tmp_path)!r}), 60, os.environ)
"""
  command = subprocess.Popen([sys.executable, '-c', program])
  wait_for(
    lambda: (tmp_path / 'stdout.txt').exists() and (tmp_path / 'stdout.txt').read_text().endswith('\n'), seconds=20
  )
  command.kill()
  command.wait()
  wait_for(lambda: not is_running(int((tmp_path / 'stdout.txt').read_text())), seconds=20)
  assert pieces.read_outcome(tmp_path) == Outcome(RUNNING, 1, 0.0)  # it may be its fault: the next try is the last


def test_what_names_stand_for():
  piece = PIECE._replace(command="-m data {data} --out={out}/x --block='G(N/8)' {unknown}", rehearsal='--batch=1')
  words, values = {'data': ['--a=1', '--b=2']}, {'out': '/o'}
  expected = ['-m', 'data', '--a=1', '--b=2', '--out=/o/x', '--block=G(N/8)', '{unknown}']
  assert pieces.split_command(piece, False, words, values) == expected
  assert pieces.split_command(piece, True, words, values) == [*expected, '--batch=1']
