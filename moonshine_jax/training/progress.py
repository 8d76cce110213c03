"""The progress of a run on a terminal."""

import sys
from typing import Any

import tqdm

METRICS = {f'train_{name}' for name in ('loss', 'ce', 'kd', 'at', 'error', 'gradient_norm')}


class ProgressBar:
  """A progress bar with images a second and the time to go; a line for each epoch where stderr is no terminal."""

  def __init__(self, epochs: int, steps_per_epoch: int, first_step: int, batch_size: int, evaluated_on: str):
    self._epochs = epochs
    self._evaluated_on = evaluated_on
    self._batch_size = batch_size
    self._bar = tqdm.tqdm(
      total=epochs * steps_per_epoch * batch_size,
      initial=first_step * batch_size,
      unit='img',
      unit_scale=True,
      disable=not sys.stderr.isatty(),
      dynamic_ncols=True,
      smoothing=0.05,
    )

  def advance(self, steps: int) -> None:
    """Counts steps that are done."""
    self._bar.update(steps * self._batch_size)

  def epoch(self, record: dict[str, Any], student: str = '') -> None:
    """Prints the record of an epoch, with the name of the student where there are several."""
    line = f'epoch {record["epoch"]}/{self._epochs}' + (f'  {student}' if student else '')
    for name, label in (
      ('train_loss', 'loss'),
      ('train_error', 'train error'),
      ('test_error', f'{self._evaluated_on} error'),
      ('ema_test_error', 'of the averaged weights'),
    ):
      if name in record:
        line += f'  {label} {record[name]:.{4 if name == "train_loss" else 2}f}' + ('%' if 'error' in name else '')
    line += ''.join(
      f'  {name.removeprefix("train_")} {value:.3f}'
      for name, value in record.items()
      if name.startswith('train_') and name not in METRICS  # of blocks that learn alone, by their paths
    )
    if 'images_per_second' in record:
      line += f'  {record["images_per_second"]:,.0f} images/s'
    if self._bar.disable:
      print(line, file=sys.stderr, flush=True)
    else:
      self._bar.write(line, file=sys.stderr)

  def close(self) -> None:
    """Ends the bar."""
    self._bar.close()
