"""Runs a plan: pieces in order, as far as they fit into some minutes, and from run to run until nothing is left."""

import argparse
import importlib.util
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import filelock

from benchmarks.pieces import (
  DONE,
  GRACE,
  OUT,
  PAUSED,
  ROWS,
  TRIES,
  Outcome,
  Piece,
  is_left,
  noted_signals,
  read_outcome,
  run_piece,
  split_command,
)
from moonshine_jax.errors import UserError, say
from moonshine_jax.runtime import files
from moonshine_jax.workdir import metrics

FINISH = 5  # seconds for the summary
SLOWER = 4  # times as long as the pieces of a rehearsal may take
SHOWN = 60  # last lines that are shown of what a piece printed
SETTINGS, SUMMARY = 'settings.json', 'summary.txt'


class Run:
  """One run of the command: what is left of a plan, as far as it fits into the minutes."""

  def __init__(self, flags: argparse.Namespace, plan: Sequence[Piece]):
    """Takes the flags of the command, and the plan. Raises UserError for a folder of another kind of run."""
    self._flags, self._plan, self._out = flags, plan, Path(flags.out).absolute()
    self._start = time.monotonic()
    self._running = ''  # name of a piece
    with files.writing(self._out):
      self._out.mkdir(parents=True, exist_ok=True)
    self._keep_setting('rehearse', flags.rehearse)

  def go_on(self) -> bool:
    """Runs the pieces. Returns whether anything is left. Raises UserError without the device."""
    try:
      with filelock.FileLock(self._out / '.lock', timeout=0), noted_signals() as signals:
        say(self._summary())
        if self._next():
          self._run_all(signals)
          say('\n' + self._summary())
    except filelock.Timeout as error:
      raise UserError(f'--out={self._flags.out}: another run works there: expected one at a time') from error
    return self._next() is not None

  def _run_all(self, signals: Sequence[str]) -> None:
    """Runs the pieces in order, and first says which of them can be in this run."""
    for piece in self._plan:
      if not _is_installed(piece.module):
        say(f'{piece.name} is left out: {piece.module} is not installed')
    say(f'in this run, if all take their longest: {", ".join(self._fitting())}')
    for piece in self._plan:
      if not signals and self._is_left(piece) and not self._waits_for(piece):
        self._run(piece, signals)

  def _run(self, piece: Piece, signals: Sequence[str]) -> None:
    """Runs a piece and says what became of it. Raises UserError where that is that there is no device."""
    seconds = self._seconds_left() - GRACE * piece.lasting
    if not piece.lasting:
      seconds = min(seconds, self._needed(piece))
    self._running = piece.name
    say(f'[{self._gone():>4.0f} s] {piece.name}: {piece.purpose}; for at most {seconds:.0f} s')
    self._summary()
    outcome = run_piece(
      piece, self._arguments(piece), self._out / piece.name, seconds, self._environment(piece), signals
    )
    self._running = ''
    printed = (self._out / piece.name / OUT).read_text(errors='replace').splitlines()
    if printed and not piece.lasting:
      say('\n'.join(printed[-SHOWN:]))
    say(f'[{self._gone():>4.0f} s] {piece.name}: {self._state(piece)}')
    self._summary()
    if piece.name == 'device':
      if outcome.state != DONE:
        raise UserError(f'without the device nothing is measured: {outcome.told or outcome.state}')
      self._keep_setting('device', self._environment_of_device()['device'])

  def _arguments(self, piece: Piece) -> list[str]:
    """Returns the arguments of Python for a piece."""
    name, folder = self._flags.data_name, self._flags.data_dir
    data = [f'--config.data.name={name}'] + [f'--config.data.data_dir={folder}'] * bool(folder)
    words = {'data': data, 'data_name': [name], 'data_dir': [f'--data_dir={folder}'] * bool(folder)}
    values = {'rows': str(self._out / piece.name / ROWS), 'out': str(self._out)}
    return split_command(piece, self._flags.rehearse, words, values)

  def _environment(self, piece: Piece) -> dict[str, str]:
    """Returns the variables of a piece's process."""
    cache = {
      'JAX_COMPILATION_CACHE_DIR': str(self._out / 'cache'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'TORCHINDUCTOR_CACHE_DIR': str(self._out / 'cache/torch'),
    }
    variables = cache | dict(os.environ) | {'PYTHONUNBUFFERED': '1'}
    variables |= dict(word.split('=', 1) for word in piece.variables.split())
    if 'XLA_FLAGS' in piece.variables:  # beside those of the user
      variables['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {variables["XLA_FLAGS"]}'.strip()
    return variables | ({'JAX_PLATFORMS': 'cpu'} if self._flags.rehearse else {})

  def _environment_of_device(self) -> dict:
    """Returns the environment as the piece `device` wrote it; empty before its first run."""
    path = self._out / 'device' / ROWS
    return json.loads(path.read_text())['environment'] if path.exists() else {}

  def _keep_setting(self, name: str, value: Any) -> None:
    """Keeps a setting of the first run in the folder. Raises UserError where it is another now."""
    path = self._out / SETTINGS
    kept = json.loads(path.read_text()) if path.exists() else {}
    if kept.get(name, value) != value:
      raise UserError(f'--out={self._flags.out}: begun with {name} {kept[name]}, now {value}: expected another folder')
    files.write_atomically(path, json.dumps(kept | {name: value}))

  def _is_left(self, piece: Piece) -> bool:
    """Whether a piece is to be run here, now or later."""
    backend = self._environment_of_device().get('backend', piece.backend)
    given_up = [
      name for name in piece.needs if not self._is_done(name) and not is_left(self._of(name), self._told(name))
    ]
    possible = piece.backend in ('', backend) and _is_installed(piece.module) and not given_up
    return possible and is_left(piece, self._told(piece.name))

  def _waits_for(self, piece: Piece) -> str:
    """Returns what a piece that is left waits for; empty if for nothing."""
    missing = [name for name in piece.needs if not self._is_done(name)]
    if missing:
      return missing[0]
    needed = self._needed(piece) + GRACE * piece.lasting
    return f'{needed} s' if needed > self._seconds_left() and not piece.always else ''

  def _fitting(self) -> list[str]:
    """Returns the names of the pieces that fit into the minutes, if each takes its longest and succeeds."""
    left, names = self._seconds_left(), []
    for piece in filter(self._is_left, self._plan):
      needed = self._needed(piece) + GRACE * piece.lasting
      if needed <= left or piece.always:
        names.append(piece.name)
        left -= left if piece.lasting else min(needed, left)
    return names

  def _next(self) -> Piece | None:
    """Returns the first piece that is left and is not run every time."""
    return next((piece for piece in self._plan if self._is_left(piece) and not piece.always), None)

  def _summary(self) -> str:
    """Returns what is done, what is left, and what comes next, in lines; they are in the folder too."""
    device = self._environment_of_device()
    shown = [piece for piece in self._plan if self._is_left(piece) or self._told(piece.name)]
    done = sum(self._is_done(piece.name) for piece in shown)
    lines = [
      f'{device.get("device", "device not seen yet")}: {done} of {len(shown)} pieces done, {self._gone():.0f} of '
      f'{60 * self._flags.minutes:.0f} s gone, results in {self._flags.out}',
      *(f'  {piece.name:<20} {piece.purpose:<56} {self._state(piece)}' for piece in shown),
    ]
    following = self._next()
    lines.append(f'the same command goes on with {following.name}' if following else 'nothing is left')
    files.write_atomically(self._out / SUMMARY, '\n'.join(lines) + '\n')
    return '\n'.join(lines)

  def _state(self, piece: Piece) -> str:
    """Returns what became of a piece, or what it waits for, in words."""
    outcome = self._told(piece.name)
    if piece.name == self._running:
      return 'running'
    if outcome is None:
      waits = self._waits_for(piece)
      return f'left, waits for {waits}' if waits else 'left'
    words = f'{outcome.state}, {outcome.seconds:.0f} s'
    if piece.lasting and (records := metrics.read(self._out / 'runs' / piece.name)):
      error = records[-1].get('test_error')
      words += f', {records[-1]["epoch"]} epochs' + (f', test error {error:.2f}%' if error is not None else '')
    if outcome.state not in (DONE, PAUSED):
      words += f', try {outcome.tries} of {TRIES}' + f': {outcome.told}' * bool(outcome.told)
    return words

  def _told(self, name: str) -> Outcome | None:
    """Returns what became of a piece."""
    return read_outcome(self._out / name)

  def _of(self, name: str) -> Piece:
    """Returns a piece by its name."""
    return next(piece for piece in self._plan if piece.name == name)

  def _is_done(self, name: str) -> bool:
    """Whether a piece is done."""
    outcome = self._told(name)
    return outcome is not None and outcome.state == DONE

  def _needed(self, piece: Piece) -> int:
    """Returns the seconds that a piece may take, or needs to begin."""
    return piece.seconds * (SLOWER if self._flags.rehearse else 1)

  def _gone(self) -> float:
    """Returns the seconds since the command began."""
    return time.monotonic() - self._start

  def _seconds_left(self) -> float:
    """Returns the seconds that are left for pieces."""
    return 60 * self._flags.minutes - self._gone() - FINISH


def _is_installed(module: str) -> bool:
  """Whether a module is there; so is none."""
  return not module or importlib.util.find_spec(module) is not None
