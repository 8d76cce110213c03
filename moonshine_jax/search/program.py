"""The choice of one candidate for each place: an integer program (LANA: Molchanov et al., 2022; Puzzle: 2024)."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from moonshine_jax.errors import UserError

TOLERANCE = 1e-9  # of a budget, as a share of it: the solver's own is 1e-6, so that what it returns is checked


def choose(
  values: np.ndarray,
  fits: np.ndarray,
  costs: Mapping[str, np.ndarray],
  budgets: Mapping[str, float],
  solutions: int,
  distance: int,
) -> list[tuple[int, ...]]:
  """Chooses the candidates with the least sum of values within budgets, and then the best that differ from them.

  Args:
    values: (places, candidates).
    fits: bool (places, candidates): what may be chosen.
    costs: (places, candidates) by name.
    budgets: the most that the sum of a cost may be, by its name.
    solutions: the most choices that are returned.
    distance: places in which any two of them differ, at least.

  Returns:
    Choices, the best first: for each place the index of its candidate.

  Raises:
    UserError: where nothing is within the budgets: says the least that is possible.
  """
  chosen: list[tuple[int, ...]] = []
  while len(chosen) < solutions:
    choice = _solve(values, fits, costs, budgets, chosen, distance)
    if choice is None:
      break
    chosen.append(choice)
  if not chosen:
    raise UserError(_say_least(fits, costs, budgets))
  return chosen


def cost_of(choice: Sequence[int], costs: np.ndarray) -> float:
  """Returns the sum of a cost (places, candidates) over a choice."""
  return float(costs[np.arange(len(choice)), list(choice)].sum())


def _solve(
  values: np.ndarray,
  fits: np.ndarray,
  costs: Mapping[str, np.ndarray],
  budgets: Mapping[str, float],
  taken: Sequence[tuple[int, ...]],
  distance: int,
) -> tuple[int, ...] | None:
  """Returns the best choice that differs enough from those that are taken; None where there is none.

  The solver allows a constraint to be missed by its tolerance. A choice that misses a budget so is excluded, and the
  program solved again.
  """
  excluded: list[tuple[int, ...]] = []
  while True:
    rows, most = [], []
    for name, budget in budgets.items():
      scale = max(abs(budget), float(np.abs(costs[name]).max()), 1e-12)  # every row has numbers of about 1
      rows.append(costs[name].ravel() / scale)
      most.append(budget / scale)
    for choices, apart in ((taken, distance), (excluded, 1)):
      for choice in choices:
        rows.append(_one_hot(choice, values.shape).ravel())
        most.append(len(choice) - apart)
    found = _minimise(values, fits, rows, most)
    if found is None or is_within(found, costs, budgets):
      return found
    excluded.append(found)


def _minimise(
  values: np.ndarray, fits: np.ndarray, rows: Sequence[np.ndarray], most: Sequence[float]
) -> tuple[int, ...] | None:
  """Returns the choice of the least sum of values for which each row's sum is at most so much; None where none is."""
  places, candidates = values.shape
  one_a_place = sparse.kron(sparse.eye(places), np.ones((1, candidates)), format='csr')
  constraints = [LinearConstraint(one_a_place, 1, 1)]
  if rows:
    constraints.append(LinearConstraint(np.stack(rows), -np.inf, np.array(most)))
  finite = np.where(fits, values, 0.0)
  scale = max(float(np.abs(finite).max()), 1e-12)
  result = milp(
    finite.ravel() / scale,
    integrality=np.ones(values.size),
    bounds=Bounds(0, fits.ravel().astype(float)),
    constraints=constraints,
    options={'mip_rel_gap': 0.0},
  )
  if result.x is None:
    return None
  return tuple(int(index) for index in result.x.reshape(values.shape).argmax(axis=1))


def is_within(choice: Sequence[int], costs: Mapping[str, np.ndarray], budgets: Mapping[str, float]) -> bool:
  """Whether the costs of a choice are within budgets, to float rounding."""
  return all(cost_of(choice, costs[name]) <= budget + TOLERANCE * abs(budget) for name, budget in budgets.items())


def _one_hot(choice: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
  row = np.zeros(shape)
  row[np.arange(len(choice)), list(choice)] = 1
  return row


def _say_least(fits: np.ndarray, costs: Mapping[str, np.ndarray], budgets: Mapping[str, float]) -> str:
  """Says in a line which budget cannot be met, and what the least is."""
  for name, budget in budgets.items():
    others = {other: most for other, most in budgets.items() if other != name}
    least = _solve(costs[name], fits, costs, others, [], 0)
    if least is None:
      continue
    within = f' and {_join(others)}' if others else ''
    return (
      f'{_shown(name, budget)}: no network of these candidates is within it{within}: expected at least '
      f'{_value(name, cost_of(least, costs[name]))}'
    )
  return f'{_join(budgets)}: no network of these candidates is within two of them at once: expected more'


def _join(budgets: Mapping[str, float]) -> str:
  return ', '.join(_shown(name, budget) for name, budget in budgets.items())


def _shown(name: str, value: float) -> str:
  return f'{name} {_value(name, value)}'


def _value(name: str, value: float) -> str:
  return f'{1e3 * value:.9g} ms' if name == 'latency' else f'{value:,.9g}'
