"""The CPU, on Linux and where Linux's ways to ask for it are missing, as on macOS."""

import builtins
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from moonshine_jax.runtime import cpu


@pytest.fixture
def macos(monkeypatch):
  """Hides what Linux alone has: the set of cores that a process is bound to, and the files in /proc."""
  monkeypatch.delattr(os, 'sched_getaffinity', raising=False)
  real_open = builtins.open

  def open_outside_proc(path, *args, **kwargs):
    if str(path).startswith('/proc/'):
      raise FileNotFoundError(path)
    return real_open(path, *args, **kwargs)

  monkeypatch.setattr(builtins, 'open', open_outside_proc)


@pytest.mark.skipif(not hasattr(os, 'sched_setaffinity'), reason='macOS binds no process to cores')
def test_cores_are_those_that_the_process_is_bound_to():
  program = (
    'import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});'
    'from moonshine_jax.runtime import cpu; print(cpu.available_cores())'
  )
  result = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
  assert result.stdout == '1\n'


def test_cores_without_linux(macos, monkeypatch):
  monkeypatch.setattr(os, 'cpu_count', lambda: 12)
  assert cpu.available_cores() == 12
  monkeypatch.setattr(os, 'cpu_count', lambda: None)  # Python's word for a number that it cannot tell
  assert cpu.available_cores() == 1


def test_the_processor_without_linux(macos, monkeypatch):
  monkeypatch.setattr(platform, 'processor', lambda: 'arm')
  assert cpu.processor_name() == 'arm'
  monkeypatch.setattr(platform, 'processor', lambda: '')
  monkeypatch.setattr(platform, 'machine', lambda: 'arm64')
  assert cpu.processor_name() == 'arm64'


def test_the_processor_has_a_name():
  assert cpu.processor_name()


def test_it_needs_no_jax():
  program = "import sys; from moonshine_jax.runtime import cpu; print('jax' in sys.modules)"
  result = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
  assert result.stdout == 'False\n'


def test_no_other_module_asks_linux_alone():
  root = Path(cpu.__file__).parents[2]
  modules = [path for folder in ('moonshine_jax', 'configs', 'launch') for path in (root / folder).rglob('*.py')]
  asking = [path for path in modules if re.search(r'sched_getaffinity|/proc/', path.read_text())]
  assert asking == [Path(cpu.__file__)]
