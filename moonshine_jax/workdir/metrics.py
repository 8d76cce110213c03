"""The metrics of a run, a record for each epoch: JSON lines and TensorBoard."""

import os
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

from moonshine_jax.errors import UserError
from moonshine_jax.runtime import files, json_files
from moonshine_jax.workdir.tensorboard import EventFile

FILE = 'metrics.jsonl'

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Percent = Annotated[float, Meta(ge=0, le=100)]


class Record(TypedDict):
  """The schema of a record. Its other fields are metrics that nothing reads again."""

  epoch: Count
  step: Count
  test_error: NotRequired[Percent]
  best_test_error: NotRequired[Percent]
  ema_test_error: NotRequired[Percent]


def read(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """Returns the records of a workdir, one for each epoch, in order; none where there is no file.

  Raises UserError where the file is damaged.
  """
  return [dict(record) for record in json_files.read_records(Path(workdir) / FILE, Record)]


def write(workdir: str | os.PathLike, records: list[dict[str, Any]]) -> None:
  """Writes the records of a workdir in place of those that are there. Raises UserError where they cannot be written."""
  files.write_atomically(Path(workdir) / FILE, ''.join(map(json_files.json_line, records)))


class Writer:
  """Writes a record for each epoch to `metrics.jsonl` and to TensorBoard, in the workdir.

  Attributes:
    records: of all epochs, in order; that of epoch 0 is of the network that the run starts from.
  """

  def __init__(self, workdir: str | os.PathLike, epochs: int):
    """Opens the files of a run that goes on after some epochs.

    Args:
      workdir: folder of the run.
      epochs: number of epochs whose records are kept. Later ones came from a run that did not reach its next
        checkpoint.

    Raises:
      UserError: where a record of these epochs is missing, or the files cannot be written.
    """
    self._path = Path(workdir) / FILE
    self.records = [record for record in read(workdir) if record['epoch'] <= epochs]
    there = [record['epoch'] for record in self.records]
    if there != list(range(min([1, *there]), epochs + 1)):
      raise UserError(
        f'{self._path}: expected a record of each epoch from 1 to {epochs}, as the checkpoint has them '
        'behind it: bring the file back, or begin in another workdir'
      )
    write(workdir, self.records)
    with files.writing(workdir):
      folder = Path(workdir) / 'tensorboard'
      files.make_folder(folder, inside=workdir)
      self._events = EventFile(folder, self.records[-1]['step'] + 1 if self.records else 1)

  def write(self, record: dict[str, Any]) -> None:
    """Adds a record, which holds at least 'epoch' and 'step'; it is on the disk on return."""
    files.append_record(self._path, record)
    self.records.append(record)
    values = {name: value for name, value in record.items() if name not in ('epoch', 'step')}
    with files.writing(self._path.parent):
      self._events.write(record['step'], values)

  def close(self) -> None:
    """Closes the files."""
    with files.writing(self._path.parent):
      self._events.close()


class NoWriter:
  """The writer in a process that leaves the files to the first process: keeps the records in memory alone."""

  def __init__(self, records: list[dict[str, Any]]):
    self.records = records

  def write(self, record: dict[str, Any]) -> None:
    """Adds a record."""
    self.records.append(record)
