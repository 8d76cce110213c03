"""Processes of a sweep, with scripts of a shell in place of runs."""

import os
import signal
import threading
import time

import pytest

from moonshine_jax.errors import Preempted, UserError
from moonshine_jax.launch import processes


def shell(tmp_path, **scripts):
  return {tmp_path / f'logs/{name}.log': ['bash', '-c', script] for name, script in scripts.items()}


def test_one_that_fails_leaves_the_others_to_run(tmp_path):
  commands = shell(tmp_path, a='echo one', b='echo "error: no" >&2; exit 2', c='echo three; test -e out.txt; exit 1')
  told = []
  with pytest.raises(UserError, match=r'2 of 3 runs failed: .*logs/b.log: error: no; .*logs/c.log: three'):
    processes.run_all(commands, processes.environments(1), lambda: told.append(1))
  assert (tmp_path / 'logs/a.log').read_text() == 'one\n' and told


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

  def interrupt():
    while not (tmp_path / 'begun').exists():
      time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGINT)

  threading.Thread(target=interrupt).start()
  with pytest.raises(Preempted, match='all that ran is saved: the same command goes on'):
    processes.run_all(commands, processes.environments(1), lambda: None)
  assert (tmp_path / 'logs/a.log').read_text() == 'TERM\n' and not (tmp_path / 'logs/b.log').exists()
