"""The command on the smallest shapes, and the rule that follows from figures; never how fast anything is."""

import json

from benchmarks import grouped_conv as command
from benchmarks import grouped_rule
from moonshine_jax.ops import grouped_conv
from moonshine_jax.ops.formulations import LAX, MATMUL, ConvSpec, Formulation
from moonshine_jax.ops.merged_conv import merged
from moonshine_jax.ops.shifted_conv import SHIFTS

SAME, NONE = ((1, 1), (1, 1)), ((0, 0), (0, 0))


def rows_of(channels, groups, kernel_size=3, **milliseconds):
  """Rows of one convolution, from the milliseconds of each formulation in forward, input and weight gradient."""
  return [
    {
      'channels': channels,
      'groups': groups,
      'kernel_size': kernel_size,
      'stride': 1,
      'part': part,
      'ms': {name.replace('_', '(') + ')' * ('_' in name): times[i] for name, times in milliseconds.items()},
    }
    for i, part in enumerate(command.PARTS)
  ]


def rule_of(rows):
  code = grouped_rule.rule_code(rows, 'cuda', 'a GPU')
  namespace = dict(vars(grouped_conv), Formulation=Formulation)
  exec(code, namespace)
  return code, namespace['cuda_rule']


def test_the_rule_is_code_that_chooses_the_fastest():
  rows = [
    # 8 channels in a group, of 32 and of 64 channels: blocks of at least 32 channels, but XLA's own weight gradient,
    # which is within the noise of the fastest in one shape and far ahead in the other.
    *rows_of(32, 4, lax=(9, 9, 1.01), merged_1=(3, 3, 1)),
    *rows_of(64, 8, lax=(9, 9, 1), merged_1=(6, 6, 5), merged_2=(3, 3, 4)),
    # Depthwise: by shifts, but for the weight gradient.
    *rows_of(32, 32, lax=(5, 5, 5), shifts=(1, 1, 9), merged_1=(3, 3, 3)),
    *rows_of(64, 1, 1, lax=(2, 2, 2), merged_1=(2, 2, 2), matmul=(1, 1, 1)),
    *rows_of(64, 1, lax=(1, 1, 1), merged_1=(1, 1, 0.99)),
    *rows_of(64, 4, lax=(2, 2, 2), merged_1=(1, 1, 1))[:2],  # stopped before the weight gradient
  ]
  code, rule = rule_of(rows)

  def chosen(channels, groups, size=3, padding=SAME):
    kernel_shape = (size, size, channels // groups, channels)
    return rule((1, 8, 8, channels), kernel_shape, ConvSpec((1, 1), padding, (1, 1), groups))

  assert chosen(64, 8) == Formulation(merged(2).forward, merged(2).input_gradient, LAX.weight_gradient)
  assert chosen(32, 4) == Formulation(merged(1).forward, merged(1).input_gradient, LAX.weight_gradient)
  assert chosen(32, 32) == Formulation(SHIFTS.forward, SHIFTS.input_gradient, merged(1).weight_gradient)
  assert chosen(64, 1, 1, NONE) == MATMUL
  for unmeasured in (chosen(64, 1), chosen(64, 4), chosen(128, 16), chosen(64, 1, 1, SAME), chosen(64, 8, 5)):
    assert unmeasured == LAX
  assert '3x3, 8 in a group           2' in code and '18.000 / 6.000' in code
  assert 'RULES = {..., ' in code and all(len(line) <= 120 for line in code.splitlines())


def test_the_rule_where_nothing_gains_is_xlas_own():
  code, rule = rule_of(rows_of(32, 4, lax=(1, 1, 1), merged_1=(2, 2, 2)))
  assert rule((1, 8, 8, 32), (3, 3, 8, 32), ConvSpec((1, 1), SAME, (1, 1), 4)) == LAX
  assert '1.000 / 1.000' in code


def test_all_cases_and_those_of_most_worth_in_time(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(command, 'SHAPES', {'G': ((2, 4, 1),)})
  real, path = command.candidates, tmp_path / 'rows.json'

  def one_fails(kernel_shape, conv):
    def fail(*_):
      raise ValueError('no such kernel\nand more')

    named = real(kernel_shape, conv)
    return named | ({'merged(2)': named['merged(2)']._replace(input_gradient=fail)} if 'merged(2)' in named else {})

  monkeypatch.setattr(command, 'candidates', one_fails)
  command.main(['--batch=1', '--repeats=1', '--shapes', 'G', f'--json={path}'])
  rows = json.loads(path.read_text())['rows']
  assert 'merged(2): no such kernel' in capsys.readouterr().out and 'merged(2)' not in rows[1]['ms']
  cases = [('3x3', 2), ('3x3', 1), ('1x1', 1), ('2x2', 1)]  # dense ones last
  assert [(f'{row["kernel_size"]}x{row["kernel_size"]}', row['groups']) for row in rows[::3]] == cases
  assert [row['part'] for row in rows[:3]] == list(command.PARTS)
  assert rows[0]['ms'].keys() == {'lax', 'shifts', 'merged(1)', 'merged(2)'} and rows[0]['rule'] in rows[0]['ms']
  monkeypatch.setattr(command, 'measure_case', lambda case, flags: rows_of(2, 2, lax=(1, 1, 1), merged_1=(2, 2, 2)))
  monkeypatch.setattr(command, 'print_row', lambda row: None)
  command.main(['--seconds=-1', f'--json={path}'])
  output = capsys.readouterr().out
  assert '0 of ' in output and 'def cpu_rule(' in output
  command.main(['--seconds=60', '--shapes', 'G', f'--json={path}'])
  assert len(json.loads(path.read_text())['rows']) == 12


def test_an_accelerator_measures_what_may_win_there(monkeypatch):
  monkeypatch.setattr(command.jax, 'default_backend', lambda: 'gpu')
  spec = ConvSpec((1, 1), SAME, (1, 1), 16)
  assert command.candidates((3, 3, 8, 128), spec).keys() == {'lax', 'merged(1)', 'merged(2)', 'merged(4)'}
  assert command.candidates((3, 3, 1, 16), spec).keys() == {'lax', 'shifts', 'merged(1)'}
