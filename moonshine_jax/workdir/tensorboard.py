"""Event files of TensorBoard, by tensorboardX."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# tensorboardX imports torch wherever it is installed, for tensors that nobody hands it here. That takes seconds.
_modules: dict[str, Any] = sys.modules
_hide = 'torch' not in _modules
if _hide:
  _modules['torch'] = None
try:
  from tensorboardX.event_file_writer import EventsWriter
  from tensorboardX.proto.event_pb2 import Event, SessionLog
  from tensorboardX.proto.summary_pb2 import Summary
finally:
  if _hide:
    del _modules['torch']


class EventFile:
  """A new event file in a folder.

  It is written at once, unlike by SummaryWriter, whose thread dies of a full disk unseen, so that its queue blocks for
  good. All methods raise OSError where the disk does not take it.
  """

  def __init__(self, folder: Path, first_step: int):
    """Opens the file; TensorBoard leaves out what earlier files have of later steps than the one before the first."""
    # Of a relative path the library may see a bucket's address.
    self._events = EventsWriter(str(folder.absolute() / 'events'), f'.{time.time_ns()}')
    self._events.write_event(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Adds the values of a step, by name; they are on the disk on return."""
    summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
    self._events.write_event(Event(wall_time=time.time(), step=step, summary=summary))
    self._events.flush()

  def close(self) -> None:
    """Closes the file."""
    self._events.close()
