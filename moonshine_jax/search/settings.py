"""The settings of a search."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from moonshine_jax.errors import UserError

LEAST = {
  'epochs': 1,
  'together': 1,
  'batch_size': 0,
  'latency_batch': 1,
  'solutions': 1,
  'distance': 1,
  'tune_epochs': 0,
}
SCORES = 'kl', 'ce'


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a search chooses from, and how.

  Attributes:
    candidates: notations; none for the paper's.
    epochs: passes over the training images in which the candidates learn alone.
    held_out: share of the training split that no candidate sees and the networks are scored on.
    together: candidates that learn in one run, from one pass of the teacher.
    batch_size: examples in a step, over all devices; 0 for the teacher's.
    seed: of the order of the examples.
    latency_batch: images in a call whose latency is measured.
    score: the loss by which blocks are scored and networks compared, 'kl' from the teacher or 'ce' from the labels.
    solutions: networks that are put together and compared within a budget.
    distance: places in which any two of them differ.
    tune_epochs: epochs in which each of them is trained before they are compared.
    data: another name of the teacher's data; empty for the teacher's.
    data_dir: where the data is; empty for the teacher's.
  """

  candidates: tuple[str, ...] = ()
  epochs: int = 1
  held_out: float = 0.1
  together: int = 4
  batch_size: int = 0
  seed: int = 0
  latency_batch: int = 1
  score: str = 'kl'
  solutions: int = 5
  distance: int = 1
  tune_epochs: int = 0
  data: str = ''
  data_dir: str = ''

  def __post_init__(self) -> None:
    """Raises UserError for a value that cannot be meant."""
    for name, least in LEAST.items():
      if getattr(self, name) < least:
        raise UserError(f'{name}={getattr(self, name)}: expected at least {least}')
    if not 0 < self.held_out <= 0.5:
      raise UserError(f'held_out={self.held_out:g}: expected a share above 0 and up to 0.5')
    if self.score not in SCORES:
      raise UserError(f'score={self.score!r}: expected one of {", ".join(SCORES)}')

  def of(self, names: Sequence[str]) -> dict[str, Any]:
    """Returns some of the settings, as values that JSON has."""
    values = {name: getattr(self, name) for name in names}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


# Of the settings, those that candidates and latencies depend on, and those that a choice depends on.
OF_CANDIDATES = ('candidates', 'epochs', 'held_out', 'together', 'batch_size', 'seed', 'latency_batch')
OF_CHOICE = ('score', 'solutions', 'distance', 'tune_epochs')
