"""`moonshine search`: the best mixture of cheap blocks within a budget."""

import dataclasses
import math
from typing import Any

from absl.flags import FlagValues

from moonshine_jax.errors import UserError, say, shown
from moonshine_jax.models.blocks import Block
from moonshine_jax.runtime import devices
from moonshine_jax.search import front
from moonshine_jax.search.run import Search
from moonshine_jax.search.settings import Settings
from moonshine_jax.workdir.network_file import open_workdir

# For each flag of a budget the cost that it limits, and how many of its units are one of the flag's.
BUDGETS = {'max_params': ('parameters', 1.0), 'max_macs': ('multiply_adds', 1.0), 'max_latency_ms': ('latency', 1e-3)}


def main(values: FlagValues) -> None:
  """Searches as the flags say, and prints the table of the networks."""
  budgets = read_budgets(values)
  settings = read_settings(values)
  devices.use_all_cores(settings.batch_size or open_workdir(values.teacher).config.batch_size)
  devices.cache_compilations(values.out)
  search = Search(values.teacher, values.out, settings, values.trust_code)
  search.run(budgets)
  if search.store.is_scored:
    say(front.write_front(search))


def read_budgets(values: FlagValues) -> list[dict[str, float]]:
  """Returns the budgets that the flags name. Raises UserError where there are none, or several lists."""
  limits = {flag: [_number(flag, text) for text in texts] for flag in BUDGETS if (texts := values[flag].value)}
  if not limits:
    raise UserError(f'a budget is missing: expected one of {", ".join(f"--{flag}" for flag in BUDGETS)}')
  lists = [flag for flag, numbers in limits.items() if len(numbers) > 1]
  if len(lists) > 1:
    raise UserError(f'--{lists[1]}: expected one number, since --{lists[0]} has several')
  number = max(map(len, limits.values()))
  return [
    {BUDGETS[flag][0]: BUDGETS[flag][1] * numbers[i % len(numbers)] for flag, numbers in limits.items()}
    for i in range(number)
  ]


def read_settings(values: FlagValues) -> Settings:
  """Returns the settings that the flags name. Raises UserError for what is no notation."""
  names = [field.name for field in dataclasses.fields(Settings)]
  flags: dict[str, Any] = {name: values[name].value for name in names}
  try:
    flags['candidates'] = tuple(map(str, Block.parse_list(values.candidates))) if values.candidates else ()
  except ValueError as error:
    raise UserError(f'--candidates: {error}') from error
  try:
    return Settings(**flags | {'data': values.data or '', 'data_dir': values.data_dir or ''})
  except UserError as error:
    raise UserError(f'--{error}') from error


def _number(flag: str, text: str) -> float:
  try:
    number = float(text)
  except ValueError:
    number = math.nan
  if not 0 < number < math.inf:
    raise UserError(f'--{flag}={shown(text)}: expected a number above 0')
  return number
