"""Runs of the data set `digits` that were never trained: a teacher and its students."""

from moonshine_jax.report.runs import Run
from tests.helpers.made_runs import make_run

TEACHER = make_run('teacher', [5.0, 4.0], **{'epochs': 2, 'data.name': 'digits'})


def make_student(name: str, test_errors: list[float], **fields) -> Run:
  """Returns a run of a G(N/8) student by attention transfer, with other fields by dotted name."""
  return make_run(
    name,
    test_errors,
    **{
      'epochs': 2,
      'data.name': 'digits',
      'model.block': 'G(N/8)',
      'distill.teacher': 'teacher',
      'distill.alpha': 0.0,
      **fields,
    },
  )
