"""Waiting for other processes."""

import os
import time


def wait_for(condition, seconds=10):
  """Waits until a condition holds; fails where it does not in time."""
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.02)


def is_running(pid):
  """Whether there is such a process."""
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  return True
