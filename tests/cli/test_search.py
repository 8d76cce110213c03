"""The flags of `moonshine search`."""

import pytest
from absl.flags import FlagValues

from moonshine_jax.cli import search, search_command  # noqa: F401 - it fills COMMANDS
from moonshine_jax.cli.command import COMMANDS
from moonshine_jax.errors import UserError
from moonshine_jax.search.settings import Settings


def parse(*arguments):
  values = FlagValues()
  COMMANDS['search'].define_flags(values)
  values(['moonshine search', '--teacher=runs/teacher', '--out=runs/search', *arguments])
  return values


@pytest.mark.parametrize(
  ('arguments', 'budgets'),
  [
    (['--max_params=8e4'], [{'parameters': 80_000}]),
    (['--max_macs=8000000', '--max_latency_ms=2.5'], [{'multiply_adds': 8e6, 'latency': 0.0025}]),
    (
      ['--max_params=3,2', '--max_macs=7'],
      [{'parameters': 3, 'multiply_adds': 7}, {'parameters': 2, 'multiply_adds': 7}],
    ),
  ],
)
def test_budgets(arguments, budgets):
  assert search.read_budgets(parse(*arguments)) == budgets


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ([], '^a budget is missing: expected one of --max_params, --max_macs, --max_latency_ms$'),
    (['--max_params=few'], "^--max_params='few': expected a number above 0$"),
    (['--max_params=-3'], "^--max_params='-3': expected a number above 0$"),
    (['--max_macs=inf'], "^--max_macs='inf': expected"),
    (['--max_params=3,2', '--max_macs=7,8'], '^--max_macs: expected one number, since --max_params has several$'),
  ],
)
def test_what_is_no_budget(arguments, message):
  with pytest.raises(UserError, match=message):
    search.read_budgets(parse(*arguments))


def test_settings():
  assert search.read_settings(parse()) == Settings()
  values = parse('--candidates=BG(2,M/8),G( N ),S', '--solutions=7', '--score=ce', '--data=digits', '--data_dir=there')
  assert search.read_settings(values) == Settings(
    candidates=('BG(2,M/8)', 'G(N)', 'S'), solutions=7, score='ce', data='digits', data_dir='there'
  )


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--candidates=G(2),X'], "^--candidates: 'X' is not a block"),
    (['--held_out=0'], '^--held_out=0: expected a share above 0'),
  ],
)
def test_what_cannot_be_set(arguments, message):
  with pytest.raises(UserError, match=message):
    search.read_settings(parse(*arguments))
