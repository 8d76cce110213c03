import signal
import subprocess
import sys
import threading
import time

import pytest

from moonshine_jax.data import images
from moonshine_jax.errors import Preempted
from moonshine_jax.runtime import signals


@pytest.mark.parametrize('which', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_handlers_come_back(which, capsys):
  before = [signal.getsignal(number) for number in signals.SIGNALS]
  threads = threading.active_count()
  with signals.Signals() as caught:
    assert caught.received == ''
    signal.raise_signal(which)
    for _ in range(1000):
      if caught.received:
        break
      time.sleep(0.01)
    assert caught.received == which.name
  assert capsys.readouterr().err.startswith(f'warning: {which.name}: saving ')
  assert [signal.getsignal(number) for number in signals.SIGNALS] == before
  assert signal.set_wakeup_fd(-1) == -1 and threading.active_count() == threads


@pytest.mark.parametrize('second', [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_though_it_is_inside_of_xla(second):
  """`sleep` stands for XLA: Python runs no handler while the main thread is in C."""
  program = (
    'import ctypes\n'
    'from moonshine_jax.runtime import signals\n'
    'with signals.Signals():\n'
    '  print(flush=True)\n'
    '  while True: ctypes.CDLL(None).sleep(1000)\n'
  )
  with subprocess.Popen([sys.executable, '-c', program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.stderr.readline().startswith(b'warning: SIGTERM: saving')
    process.send_signal(signal.SIGTERM)  # the same, passed on by a launcher
    time.sleep(signals.ECHO_SECONDS + 0.1)
    assert process.poll() is None
    process.send_signal(second)
    assert process.wait() == 128 + second


def test_a_signal_before_a_run_has_begun_is_preemption(capsys):
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(Preempted, match='^SIGTERM: what was saved before is there: '), signals.preempted_at_once():
    with signals.Signals():  # a run, to its end
      signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
  assert signal.getsignal(signal.SIGTERM) == before
  assert capsys.readouterr().err.startswith('warning: SIGTERM: saving ')


def test_the_signal_is_no_error_of_what_it_interrupts():
  with pytest.raises(Preempted), signals.preempted_at_once(), images.reading('an image'):
    signal.raise_signal(signal.SIGTERM)


def test_of_several_processes_none_is_preempted_alone(monkeypatch):
  before = signal.getsignal(signal.SIGTERM)
  monkeypatch.setattr('moonshine_jax.runtime.exchange.num_processes', lambda: 2)
  with signals.preempted_at_once():
    assert signal.getsignal(signal.SIGTERM) == before


def test_another_thread_leaves_the_signals_alone():
  handlers = []

  def enter():
    with signals.Signals():
      handlers.append([signal.getsignal(number) for number in signals.SIGNALS])

  thread = threading.Thread(target=enter)
  thread.start()
  thread.join()
  assert handlers == [[signal.getsignal(number) for number in signals.SIGNALS]]
