"""Which formulation is written, and what is refused."""

import pytest

from moonshine_jax.errors import UserError
from moonshine_jax.export import exporter, stablehlo
from tests.helpers.exports import skip_without


@pytest.mark.parametrize(
  ('milliseconds', 'chosen'),
  [((1.0, 1.04, 1.03), 'small'), ((1.04, 1.0, 1.02), 'small'), ((1.06, 1.04, 1.0), 'large'), ((1.2, 1.1, 1.0), 'huge')],
)
def test_of_formulations_that_are_as_fast_the_smallest_file_is_written(milliseconds, chosen):
  sizes = {'small': 10, 'large': 100, 'huge': 1000}
  assert exporter.choose_formulation(dict(zip(sizes, milliseconds, strict=True)), sizes) == chosen


def test_a_file_that_differs_is_refused(digits_runs, monkeypatch):
  skip_without(stablehlo)
  student = exporter.read_reference(f'{digits_runs}/student', None, calibrates=False)
  load = stablehlo.load
  monkeypatch.setattr(stablehlo, 'load', lambda content: lambda images: load(content)(images) + 1)
  with pytest.raises(UserError, match='student: exported, its logits differ by 1, where the largest is .* nothing is'):
    exporter.export_network(student, 'float32', stablehlo)


@pytest.mark.parametrize('fails', ['load', 'first run', 'later run'])
def test_what_a_runtime_raises_is_one_line(digits_runs, monkeypatch, fails):
  skip_without(stablehlo)
  student = exporter.read_reference(f'{digits_runs}/student', None, calibrates=False)

  def fail(images):
    raise RuntimeError('Non-zero status\n  Unsupported pooling size')

  def load(content):
    if fails == 'load':
      fail(None)
    return lambda images: fail(images) if fails == 'first run' or len(images) > 1 else student.logits[:1]

  monkeypatch.setattr(stablehlo, 'load', load)
  message = r'student: cannot be written as .stablehlo and run: RuntimeError: Non-zero status Unsupported pooling size$'
  with pytest.raises(UserError, match=message):
    exporter.export_network(student, 'float32', stablehlo)
