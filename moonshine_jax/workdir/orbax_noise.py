"""What Orbax, and asyncio under it, print where a checkpoint cannot be written: `Checkpoints` tells it in one line."""

import logging
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

# The coroutines that Orbax leaves where it has no file descriptor for an event loop.
ORBAX_COROUTINES = r"coroutine '(run_sync|\w*Handler|_create_paths|cleanup_temporary_paths)\b.*' was never awaited"


def silence() -> None:
  """Leaves out the lines of log, the warnings and the tracebacks that are Orbax's, and nothing else."""
  # Orbax logs every step that it takes, and each exception with its traceback.
  logging.getLogger('absl').addFilter(lambda record: 'orbax' not in Path(record.pathname).parts)
  logging.getLogger('asyncio').addFilter(lambda record: not (record.exc_info and _is_orbax(record.exc_info[2])))
  warnings.filterwarnings('ignore', ORBAX_COROUTINES, RuntimeWarning)
  sys.unraisablehook = _without_event_loops(sys.unraisablehook)


def _is_orbax(where: TracebackType | None) -> bool:
  return any('orbax' in Path(frame.filename).parts for frame in traceback.extract_tb(where))


def _without_event_loops(hook: Callable[[Any], None]) -> Callable[[Any], None]:
  """A hook without the exceptions of event loops that Orbax has closed, or could not open.

  Where one array cannot be written it closes its loop, in which the writes of the others then report to nobody.
  """

  def told(unraisable: Any) -> None:
    place = unraisable.exc_traceback and unraisable.exc_traceback.tb_frame.f_code.co_qualname
    if (place, str(unraisable.exc_value)) not in (
      ('BaseEventLoop.call_soon_threadsafe', 'Event loop is closed'),
      ('BaseEventLoop.__del__', "'_UnixSelectorEventLoop' object has no attribute '_ssock'"),
    ):
      hook(unraisable)

  return told
