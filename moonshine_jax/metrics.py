"""What a run tells while it goes: JSON lines, TensorBoard, a progress bar or a line an epoch."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import tensorboardX
import tqdm

FILE = 'metrics.jsonl'


def read(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """The records of a workdir, one an epoch, in order; none where there is no file."""
  path = Path(workdir) / FILE
  return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Writer:
  """Writes one record an epoch to `metrics.jsonl` and to TensorBoard, in the workdir."""

  def __init__(self, workdir: str | os.PathLike, step: int):
    """Keeps the records up to this step: those after it came from a run that did not reach its next checkpoint."""
    self.records = [record for record in read(workdir) if record['step'] <= step]
    path = Path(workdir) / FILE
    partial = path.with_suffix('.tmp')
    partial.write_text(''.join(json.dumps(record) + '\n' for record in self.records))
    os.replace(partial, path)
    self._file = open(path, 'a', encoding='utf-8')
    self._tensorboard = tensorboardX.SummaryWriter(str(Path(workdir) / 'tensorboard'), purge_step=step + 1)

  def write(self, record: dict[str, Any]) -> None:
    """Adds a record, which holds at least 'epoch' and 'step'."""
    self.records.append(record)
    self._file.write(json.dumps(record) + '\n')
    self._file.flush()
    for name, value in record.items():
      if name not in ('epoch', 'step'):
        self._tensorboard.add_scalar(name, value, record['step'])

  def close(self) -> None:
    self._file.close()
    self._tensorboard.close()


class Progress:
  """On a terminal a bar with images a second and the time to go, else a line an epoch; on stderr."""

  def __init__(self, epochs: int, steps_per_epoch: int, first_step: int, batch_size: int):
    self._epochs = epochs
    self._batch_size = batch_size
    self._bar = tqdm.tqdm(
      total=epochs * steps_per_epoch * batch_size, initial=first_step * batch_size, unit='img', unit_scale=True,
      disable=not sys.stderr.isatty(), dynamic_ncols=True, smoothing=0.05)

  def advance(self, steps: int) -> None:
    """Counts steps that are on their way."""
    self._bar.update(steps * self._batch_size)

  def epoch(self, record: dict[str, Any], student: str = '') -> None:
    """Tells of an epoch's record; of which student, where there are several."""
    line = f'epoch {record["epoch"]}/{self._epochs}' + (f'  {student}' if student else '')
    for name, label in (('train_loss', 'loss'), ('train_error', 'train error'), ('test_error', 'test error')):
      if name in record:
        line += f'  {label} {record[name]:.{4 if name == "train_loss" else 2}f}' + ('%' if 'error' in name else '')
    line += f'  {record["images_per_second"]:,.0f} images/s'
    if self._bar.disable:
      print(line, file=sys.stderr, flush=True)
    else:
      self._bar.write(line, file=sys.stderr)

  def close(self) -> None:
    self._bar.close()

