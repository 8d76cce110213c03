"""The averaged weights of a run's students, each written as a network beside the one that was trained."""

from typing import TYPE_CHECKING

from moonshine_jax.runtime import exchange
from moonshine_jax.training import pretrained
from moonshine_jax.workdir.workdir import AVERAGE_FOLDER, Workdir

if TYPE_CHECKING:
  from moonshine_jax.training.experiment import Experiment


def save_averages(run: 'Experiment') -> None:
  """Writes the average of each student as a workdir in the student's, with its test error; none where none is kept.

  It is evaluated, exported and distilled from as any network. What a finished run has written stays.

  Args:
    run: trained to its end.
  """
  for student, state in zip(run.students, run.states, strict=True):
    workdir = Workdir(student.workdir.path / AVERAGE_FOLDER)
    if state.ema and exchange.is_first() and (run.first_step < run.steps or not workdir.begun):
      last = student.writer.records[-1]
      record = {name: last[f'ema_{name}'] for name in ('test_error', 'test_loss')}
      config = pretrained.config_of_pretrained(student.config)
      variables = run.replicas.fetch(state.ema)
      pretrained.save_network(workdir, config, student.facts, variables, {'epoch': 0, 'step': 0, **record})
