"""The command with a network that compiles at once; and that it finds what is wrong."""

import json

import flax.linen as nn
import jax
import numpy as np
import pytest

from benchmarks import correctness
from benchmarks.grouped_conv import Case
from moonshine_jax.models.network import Network
from moonshine_jax.ops.formulations import ConvSpec

SMALL = ['--networks', 'WRN-10-1 B(2)', '--batch=4', '--image_size=8']


class Small(nn.Module):
  """What a step asks of a network, and no more."""

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.BatchNorm(use_running_average=not train)(images)
    return nn.Dense(10)(x.mean((1, 2))), (x,)


@pytest.fixture
def one_of_each(monkeypatch):
  """One loss, one convolution and a step of a network that compiles at once."""
  case = Case(2, 4, 3, ConvSpec((1, 1), ((1, 1), (1, 1)), (1, 1), 2))
  monkeypatch.setattr(correctness, 'make_network', lambda config: Network(Small(), (120.0,) * 3, (60.0,) * 3))
  monkeypatch.setattr(correctness, 'convolution_cases', lambda: [case])
  monkeypatch.setattr(correctness.losses, 'KD_FORMS', ('hinton',))
  monkeypatch.setattr(correctness.losses, 'AT_FORMS', ())


def test_all_is_right(one_of_each, tmp_path, capsys):
  path = tmp_path / 'rows.json'
  correctness.main([*SMALL, f'--json={path}'])
  rows = json.loads(path.read_text())['rows']
  assert [row['what'] for row in rows] == ['loss', 'convolution', 'convolution', 'metrics', 'update', 'statistics']
  assert all(row['errors'].keys() == correctness.TOLERANCES[row['what']].keys() for row in rows)
  assert all(1e-4 < row['errors']['bfloat16'] < 1e-2 for row in rows[1:3])
  assert '6 of 6 right' in capsys.readouterr().out


def test_what_is_wrong_is_told(one_of_each, monkeypatch, capsys):
  monkeypatch.setattr(correctness, 'compare_losses', lambda flags, device: [])

  def fail(architecture, flags, device):
    raise RuntimeError('device lost\nand more')

  monkeypatch.setattr(correctness, 'compare_steps', fail)
  # Half a percent: within what bfloat16 may be off, not within float32's tolerance.
  wrong = lambda *args, **kwargs: jax.lax.conv_general_dilated(*args, **kwargs) * 1.005  # noqa: E731
  monkeypatch.setattr(correctness.grouped_conv, 'conv_general_dilated', wrong)
  with pytest.raises(SystemExit) as ended:
    correctness.main(SMALL)
  output, errors = capsys.readouterr()
  assert ended.value.code == 1 and output.count('WRONG') == 2 and '1 of 3 right' in output
  assert errors == (
    'error: beyond their tolerance: convolution 3x3, 2 channels at 4, stride 1, 2 groups, rule in float32; '
    'failure WRN-10-1 B(2) in device lost\n'
  )


def test_cases_are_of_every_kind():
  cases = list(correctness.convolution_cases())
  kinds = {(case.channels, case.kernel_size, case.channels // case.conv.feature_group_count) for case in cases}
  assert {kind[1:] for kind in kinds if kind[0] == 32} == {(3, 1), (3, 2), (3, 8), (3, 16), (3, 32), (1, 32), (2, 32)}
  assert {case.conv.window_strides for case in cases} == {(1, 1), (2, 2)}


def test_the_largest_error_is_over_the_largest_value():
  expected = {'a': np.array([1.0, -4.0]), 'b': np.array([10.0])}
  assert correctness.largest_error({'a': np.array([1.0, -3.0]), 'b': np.array([10.5])}, expected) == 0.25
  assert correctness.largest_error(expected, expected) == 0
  assert not correctness.largest_error({'a': np.array([np.nan, 0]), 'b': np.array([10.0])}, expected) <= 1
  row = correctness.make_row('update', 'x', {'float32': np.nan, 'bfloat16': 0.01})
  assert row['errors'] == {'float32': 'NaN', 'bfloat16': 0.01} and row['wrong'] == ['float32']
