"""The integer program against all choices that there are."""

import itertools

import numpy as np
import pytest

from moonshine_jax.errors import UserError
from moonshine_jax.search import program

PLACES, CANDIDATES = 5, 4


def random_program(seed, budgets):
  rng = np.random.default_rng(seed)
  scores = rng.gamma(1.0, size=(PLACES, CANDIDATES))
  fits = rng.random((PLACES, CANDIDATES)) < 0.8
  fits[:, 0], scores[:, 0] = True, 0
  costs = {name: rng.integers(1, 10**6, (PLACES, CANDIDATES)).astype(float) for name in budgets}
  costs['parameters'][:, 0] = 10**6
  return scores, fits, costs


def all_choices(fits, costs, budgets):
  choices = [
    choice
    for choice in itertools.product(range(CANDIDATES), repeat=PLACES)
    if all(fits[place, candidate] for place, candidate in enumerate(choice))
  ]
  return [
    choice
    for choice in choices
    if all(sum(costs[name][range(PLACES), choice]) <= most for name, most in budgets.items())
  ]


@pytest.mark.parametrize('seed', range(12))
@pytest.mark.parametrize('budgets', [{'parameters': 2e6}, {'parameters': 3e6, 'multiply_adds': 2.2e6}])
def test_the_choice_is_the_best_of_all(seed, budgets):
  scores, fits, costs = random_program(seed, budgets)
  choices = all_choices(fits, costs, budgets)
  if not choices:
    with pytest.raises(UserError, match='expected'):
      program.choose(scores, fits, costs, budgets, 1, 1)
    return
  (best,) = program.choose(scores, fits, costs, budgets, 1, 1)
  assert best == min(choices, key=lambda choice: scores[range(PLACES), choice].sum())


@pytest.mark.parametrize('distance', [1, 3])
def test_each_next_choice_is_the_best_of_those_that_differ_enough(distance):
  budgets = {'parameters': 2.5e6}
  scores, fits, costs = random_program(3, budgets)
  expected = []
  for choice in sorted(all_choices(fits, costs, budgets), key=lambda choice: scores[range(PLACES), choice].sum()):
    if all(sum(np.not_equal(choice, other)) >= distance for other in expected):
      expected.append(choice)
  assert len(expected) >= 3
  assert program.choose(scores, fits, costs, budgets, 3, distance) == expected[:3]
  if distance == 3:
    assert program.choose(scores, fits, costs, budgets, 10**4, distance) == expected


def test_a_budget_that_is_met_exactly_and_one_that_is_missed_by_one():
  scores = np.array([[0.0, 1.0], [0.0, 2.0]])
  costs = {'multiply_adds': np.array([[2**40 + 1.0, 7.0], [10.0, 5.0]])}
  fits = np.ones((2, 2), bool)
  assert program.choose(scores, fits, costs, {'multiply_adds': 2**40 + 11.0}, 1, 1) == [(0, 0)]
  assert program.choose(scores, fits, costs, {'multiply_adds': 17.0}, 1, 1) == [(1, 0)]
  assert program.choose(scores, fits, costs, {'multiply_adds': 16.0}, 1, 1) == [(1, 1)]


@pytest.mark.parametrize(
  ('budgets', 'message'),
  [
    (
      {'parameters': 5.0},
      '^parameters 5: no network of these candidates is within it: expected at least 6$',
    ),
    (
      {'parameters': 7.0, 'latency': 0.0035},
      '^parameters 7: no network of these candidates is within it and latency 3.5 ms: expected at least 8$',
    ),
    ({'parameters': 5.0, 'latency': 0.001}, '^parameters 5, latency 1 ms: no network .* within two of them at once'),
  ],
)
def test_a_budget_that_nothing_meets(budgets, message):
  costs = {'parameters': np.array([[5.0, 3.0], [6.0, 3.0]]), 'latency': np.array([[0.001, 0.002], [0.001, 0.002]])}
  with pytest.raises(UserError, match=message):
    program.choose(np.zeros((2, 2)), np.ones((2, 2), bool), costs, budgets, 1, 1)


def test_eighteen_places_of_23_candidates():
  rng = np.random.default_rng(0)
  scores, parameters = rng.gamma(1.0, size=(18, 23)), rng.integers(10**3, 10**5, (18, 23)).astype(float)
  choices = program.choose(scores, np.ones((18, 23), bool), {'parameters': parameters}, {'parameters': 4e5}, 5, 2)
  sums = [scores[range(18), choice].sum() for choice in choices]
  assert len(set(choices)) == 5 and sums == sorted(sums)
  assert all(parameters[range(18), choice].sum() <= 4e5 for choice in choices)
