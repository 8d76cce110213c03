"""Signals that ask a run to end: it then saves and says that it can go on, instead of being cut off."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from moonshine_jax.errors import Preempted, warn
from moonshine_jax.runtime import exchange

SIGNALS = (signal.SIGTERM, signal.SIGINT)
ECHO_SECONDS = 2.0  # in which a second SIGTERM is the first one, passed on


def catch() -> 'Signals | JointSignals':
  """Returns the signal handler for one process or several."""
  return Signals() if exchange.num_processes() == 1 else JointSignals()


@contextlib.contextmanager
def preempted_at_once() -> Iterator[None]:
  """Lets SIGTERM raise Preempted while entered: for the stages of a run in which there is nothing to save.

  `Signals`, entered inside, catches the signal in its place. Of several processes none does so alone, and only the main
  thread of a process can catch signals: elsewhere this leaves them as they are.
  """

  def end(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one may be the first one, passed on
    raise Preempted(f'{signal.Signals(number).name}: what was saved before is there: the same command goes on')

  if exchange.num_processes() > 1 or threading.current_thread() is not threading.main_thread():
    yield
    return
  handler = signal.signal(signal.SIGTERM, end)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)  # None: a handler from outside of Python


class Signals:
  """The signals to one process: while entered, SIGTERM and SIGINT are noted; a second one ends the process at once.

  But for a SIGTERM shortly after another: who ends a whole group of processes, as systemd does, sends it to a run and
  to the launcher that passes it on.

  Only the main thread of a process can catch signals; entered in another thread, this leaves them as they are.

  Attributes:
    received: the name of the first signal; '' as long as there is none.
  """

  def __init__(self, pass_on: Callable[[], None] = lambda: None) -> None:
    """Takes what is called, in a thread, at the first signal."""
    self.received = ''
    self._pass_on = pass_on

  def __enter__(self) -> 'Signals':
    self._entered = threading.current_thread() is threading.main_thread()
    if self._entered:
      # A thread reads the signals from a pipe: the main thread may be inside XLA for minutes, where Python runs no
      # handler.
      read, self._write = os.pipe()
      os.set_blocking(self._write, False)
      self._thread = threading.Thread(target=self._watch, args=(read,), daemon=True)
      self._thread.start()
      self._wakeup_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
      self._handlers = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    return self

  def __exit__(self, *_: object) -> None:
    if self._entered:
      for number, handler in self._handlers.items():
        signal.signal(number, handler or signal.SIG_DFL)  # None: a handler from outside of Python
      signal.set_wakeup_fd(self._wakeup_fd)
      os.close(self._write)
      self._thread.join()

  def _watch(self, read: int) -> None:
    noted = 0.0
    with open(read, 'rb', buffering=0) as pipe:
      while byte := pipe.read(1):
        if byte[0] not in SIGNALS:
          continue
        if self.received:
          if byte[0] == signal.SIGTERM and time.monotonic() < noted + ECHO_SECONDS:
            continue
          os._exit(128 + byte[0])
        noted = time.monotonic()
        self.received = signal.Signals(byte[0]).name
        self._pass_on()
        warn(f'{self.received}: saving after the steps that are on their way; a second signal stops at once')


class JointSignals:
  """The signals to several processes: one that any process gets is received by all, at the same question.

  All processes must ask for `received` equally often.
  """

  def __init__(self) -> None:
    self._process_signals = Signals()
    self._agree = exchange.Agreement()
    self._received = ''

  def __enter__(self) -> 'JointSignals':
    self._process_signals.__enter__()
    return self

  def __exit__(self, *error: object) -> None:
    self._process_signals.__exit__(*error)

  @property
  def received(self) -> str:
    """The name of the first signal to any process; '' as long as there is none."""
    self._received = self._received or self._agree(self._process_signals.received)
    return self._received
