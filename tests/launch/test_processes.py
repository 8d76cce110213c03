"""Processes of a sweep, with scripts of a shell in place of runs."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from moonshine_jax.errors import Preempted, UserError
from moonshine_jax.launch import processes
from tests.helpers.waiting import is_running, wait_for


def shell(tmp_path, **scripts):
  return {tmp_path / f'logs/{name}.log': ['bash', '-c', script] for name, script in scripts.items()}


def signal_once_begun(tmp_path, number):
  """Sends this process a signal once there is a file `begun`."""

  def send():
    wait_for((tmp_path / 'begun').exists)
    os.kill(os.getpid(), number)

  threading.Thread(target=send).start()


def test_one_that_fails_leaves_the_others_to_run(tmp_path):
  commands = shell(tmp_path, a='echo one', b='echo "error: no" >&2; exit 2', c='echo three; test -e out.txt; exit 1')
  told = []
  with pytest.raises(UserError, match=r'2 of 3 runs failed: .*logs/b.log: error: no; .*logs/c.log: three'):
    processes.run_all(commands, processes.environments(1), lambda: told.append(1))
  assert (tmp_path / 'logs/a.log').read_text() == 'one\n' and told


def test_why_one_failed_is_its_signal_or_what_it_said_itself(tmp_path):
  """Not what an earlier run said, whose log it goes on with."""
  commands = shell(tmp_path, a='echo "epoch 12/200"; kill -9 $$', b='exit 3')
  (tmp_path / 'logs').mkdir()
  (tmp_path / 'logs/b.log').write_text('error: of yesterday\n')
  with pytest.raises(
    UserError, match=r'2 of 2 .*a.log: Killed \(signal 9\) after: epoch 12/200; .*logs/b.log: ended with status 3$'
  ):
    processes.run_all(commands, processes.environments(1), lambda: None)


def test_one_that_cannot_catch_the_signal_yet_is_stopped_and_has_not_failed(tmp_path):
  commands = shell(tmp_path, a=f'touch {tmp_path}/begun; exec sleep 60')
  signal_once_begun(tmp_path, signal.SIGTERM)
  with pytest.raises(Preempted, match='^all that ran is saved: the same command goes on from there$'):
    processes.run_all(commands, processes.environments(1), lambda: None)


def test_a_second_signal_leaves_nothing_running(tmp_path):
  """Though it comes before the first look at the first one."""
  program = (
    'import os, pathlib, time\n'
    'from moonshine_jax.launch import processes\n'
    'processes.POLL_SECONDS = 1000.0\n'
    'command = ["bash", "-c", "echo $$; exec sleep 1000"]\n'
    'processes.run_all({pathlib.Path("log"): command}, [dict(os.environ)], lambda: None)\n'
  )
  with subprocess.Popen([sys.executable, '-c', program], cwd=tmp_path, stderr=subprocess.PIPE) as sweep:
    wait_for(lambda: (tmp_path / 'log').exists() and (tmp_path / 'log').read_text())
    process_id = int((tmp_path / 'log').read_text())
    sweep.send_signal(signal.SIGINT)
    assert sweep.stderr.readline().startswith(b'warning: SIGINT: saving')
    sweep.send_signal(signal.SIGINT)
    assert sweep.wait() == 128 + signal.SIGINT
  wait_for(lambda: not is_running(process_id))


def test_workers_have_a_gpu_each_and_all_are_used_again(tmp_path, monkeypatch):
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '5,7')
  monkeypatch.delenv('JAX_PLATFORMS', raising=False)
  commands = shell(tmp_path, **dict.fromkeys('abc', 'echo "$CUDA_VISIBLE_DEVICES $JAX_PLATFORMS"; sleep 0.3'))
  processes.run_all(commands, processes.environments(2), lambda: None)
  said = [log.read_text() for log in commands]
  assert said[:2] == ['5 cuda\n', '7 cuda\n'] and said[2] in said[:2]
  with pytest.raises(UserError, match=r'--workers=3: expected at most 2'):
    processes.environments(3)
  assert processes.environments(1) == [dict(os.environ)]


def test_a_signal_is_passed_on_after_one_was_preempted_by_itself_and_failures_are_named(tmp_path):
  trap = f'trap "echo error: full; exit 2" TERM; touch {tmp_path}/begun; while true; do sleep 0.05; done'
  commands = shell(tmp_path, a='exit 75', b=trap)

  def interrupt():
    while not (tmp_path / 'begun').exists():
      time.sleep(0.02)
    time.sleep(1.0)  # until the first has ended
    os.kill(os.getpid(), signal.SIGTERM)

  threading.Thread(target=interrupt).start()
  with pytest.raises(Preempted, match=r'1 of 2 runs failed: .*logs/b.log: error: full; all others are saved: the same'):
    processes.run_all(commands, [dict(os.environ)] * 2, lambda: None)


def test_a_signal_reaches_those_that_run_and_no_other_starts(tmp_path):
  commands = shell(tmp_path, a='trap "echo TERM; exit 75" TERM; touch begun; while true; do sleep 0.05; done', b='true')
  commands = {log: ['bash', '-c', f'cd {tmp_path}; {command[2]}'] for log, command in commands.items()}
  signal_once_begun(tmp_path, signal.SIGINT)
  with pytest.raises(Preempted, match='all that ran is saved: the same command goes on'):
    processes.run_all(commands, processes.environments(1), lambda: None)
  assert (tmp_path / 'logs/a.log').read_text() == 'TERM\n' and not (tmp_path / 'logs/b.log').exists()
