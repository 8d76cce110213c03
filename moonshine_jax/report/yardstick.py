"""The published accuracies on CIFAR-100 beside those of our runs by the same protocol."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from moonshine_jax import config as config_lib
from moonshine_jax import fields, published
from moonshine_jax.data import names
from moonshine_jax.published import PublishedMethod
from moonshine_jax.report.runs import Run

HEADINGS = ('Method', 'Student', 'Ours, last epoch', 'Ours, best epoch', 'Published', 'of the epoch', 'by')
NOTE = (
  'Top-1 accuracies in percent on CIFAR-100, of students of WRN-40-2 by the protocol of Tian et al. (2020): mean ± '
  'sample standard deviation (number of runs). A best epoch was chosen by the test set, which is worth about half a '
  'point: compare the last with the last. The seeds, the framework and the teacher are others than in the papers.'
)


class ComparedAccuracies(NamedTuple):
  """The accuracies of one student by one method.

  Attributes:
    method: the published method.
    network: name of the student.
    published: accuracy that was published, in percent.
    last: accuracies of our finished runs after the last epoch.
    best: of their best epochs.
  """

  method: PublishedMethod
  network: str
  published: float
  last: tuple[float, ...]
  best: tuple[float, ...]

  @property
  def cells(self) -> tuple[str, ...]:
    """The texts below HEADINGS."""
    return (
      self.method.name,
      self.network,
      _mean(self.last),
      _mean(self.best),
      f'{self.published:.2f}',
      self.method.epoch,
      self.method.source,
    )


def compare_accuracies(runs: Sequence[Run]) -> list[ComparedAccuracies]:
  """Compares runs with what was published; empty where no run is by the protocol, and of a known method.

  Args:
    runs: runs of any data sets, finished or not.
  """
  rows = []
  others = {run.name for run in runs if not (_is_network(run, published.TEACHER) and run.block == 'S')}
  ours = [
    run
    for run in runs
    if run.finished and _is_by_protocol(run) and (run.regime == 'none' or run.config.distill.teacher not in others)
  ]
  for i, (depth, width) in enumerate(published.STUDENTS):
    for method in published.METHODS:
      of_method = [run for run in ours if _is_network(run, (depth, width)) and _is_by_method(run, method)]
      rows.append(
        ComparedAccuracies(
          method,
          f'WRN-{depth}-{width}',
          method.accuracies[i],
          tuple(100 - run.error for run in of_method),
          tuple(100 - min(run.test_errors) for run in of_method),
        )
      )
  return rows if any(row.last for row in rows) else []


def _is_network(run: Run, size: tuple[int, int]) -> bool:
  """Whether it is the Wide ResNet of a depth and a width."""
  model = run.config.model
  return (model.network, model.depth, model.width) == ('wide_resnet', *size)


def _is_by_protocol(run: Run) -> bool:
  """Whether nothing but the network, the loss and the seeds is another than in the protocol."""
  expected = fields.COMPARABLE | published.PROTOCOL | {'data.name': published.DATA}
  values = config_lib.flatten(run.config)
  values['data.name'] = names.known_as(values['data.name'], run.facts.num_classes)
  apart = {'model.depth', 'model.width', 'model.dtype', *config_lib.LOSS_FIELDS}
  return all(values[name] == value for name, value in expected.items() if name not in apart)


def _is_by_method(run: Run, method: PublishedMethod) -> bool:
  if method.loss is None:
    return False
  values = config_lib.flatten(run.config)
  expected = {name: fields.FIELDS[name].default for name in config_lib.LOSS_FIELDS}
  expected |= {f'distill.{word}': value for word, value in method.loss.items()}
  if not expected['distill.alpha'] and not expected['distill.beta']:
    return run.regime == 'none'
  return run.regime != 'none' and all(values[name] == expected[name] for name in config_lib.loss_fields(run.config))


def _mean(accuracies: Sequence[float]) -> str:
  if not accuracies:
    return '-'
  spread = f' ± {statistics.stdev(accuracies):.2f}' if len(accuracies) > 1 else ''
  return f'{statistics.mean(accuracies):.2f}{spread} ({len(accuracies)})'
