"""Signals that ask a run to end: it saves and says that it can go on, instead of being cut off."""

import os
import signal
import threading

from moonshine_jax.errors import warn
from moonshine_jax.runtime import exchange

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def catch() -> 'Signals | JointSignals':
  """Returns the signal handler for one process or several."""
  return Signals() if exchange.num_processes() == 1 else JointSignals()


class Signals:
  """While entered, SIGTERM and SIGINT are noted instead of ending the process; a second one ends it at once.

  Only the main thread of a process can have this; entered in another, it leaves the signals as they are.

  Attributes:
    received: the name of the first signal; empty as long as there is none.
  """

  def __init__(self):
    self.received = ''

  def __enter__(self) -> 'Signals':
    self._entered = threading.current_thread() is threading.main_thread()
    if self._entered:
      # A thread reads them from a pipe: the main thread may be inside XLA for minutes, where Python runs no handler.
      read, self._write = os.pipe()
      os.set_blocking(self._write, False)
      self._thread = threading.Thread(target=self._watch, args=(read,), daemon=True)
      self._thread.start()
      self._wakeup_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
      self._handlers = {each: signal.signal(each, lambda *_: None) for each in SIGNALS}
    return self

  def __exit__(self, *_) -> None:
    if self._entered:
      for each, handler in self._handlers.items():
        signal.signal(each, handler or signal.SIG_DFL)  # None: installed from outside of Python
      signal.set_wakeup_fd(self._wakeup_fd)
      os.close(self._write)
      self._thread.join()

  def _watch(self, read: int) -> None:
    with open(read, 'rb', buffering=0) as pipe:
      while byte := pipe.read(1):
        if byte[0] not in SIGNALS:
          continue
        if self.received:
          os._exit(128 + byte[0])
        self.received = signal.Signals(byte[0]).name
        warn(f'{self.received}: saving after the steps that are on their way; a second signal stops at once')


class JointSignals:
  """Likewise for several processes: a signal to any of them is received by all, each at the same question."""

  def __init__(self):
    self._own = Signals()
    self._agree = exchange.Agreement()
    self._received = ''

  def __enter__(self) -> 'JointSignals':
    self._own.__enter__()
    return self

  def __exit__(self, *error) -> None:
    self._own.__exit__(*error)

  @property
  def received(self) -> str:
    """The signal's name; empty as long as there is none. All processes must ask equally often."""
    self._received = self._received or self._agree(self._own.received)
    return self._received
