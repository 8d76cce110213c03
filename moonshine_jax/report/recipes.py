"""What the recipes of runs differ in: their methods, which are a table's columns, and the variants of its rows."""

from collections.abc import Sequence
from typing import Any

from moonshine_jax.fields import FIELDS
from moonshine_jax.models import factory
from moonshine_jax.report.runs import Run


def methods(runs: Sequence[Run]) -> dict[str, str]:
  """Maps the name of each run to its method: its regime, with the fields of the loss in which the runs of it differ.

  A field at its default is not told, but for a form. A workdir that runs start from is told as 'start=network' where no
  other run of the network starts from another one: networks of a search then share a column.
  """
  defaults = {name: field.default for name, field in FIELDS.items()}
  starts = _starts(runs)
  by_run: dict[str, str] = {}
  for regime in {run.regime for run in runs}:
    of_regime = [run for run in runs if run.regime == regime]
    teachers = {run.recipe['distill.teacher'] for run in of_regime if 'distill.teacher' in run.recipe}
    for run, values in _recipe_differences(of_regime, of_loss=True).items():
      if 'distill.start' in values:
        values['distill.start'] = starts[run]
      if len(teachers) == 1:  # and others of the runs have none
        values.pop('distill.teacher', None)
      forms = {name: value for name, value in values.items() if name.endswith('_form')}
      told = forms | {name: value for name, value in values.items() if value != defaults.get(name)}
      by_run[run] = ', '.join([regime, *_words(told)])
  return by_run


def regime_of(method: str) -> str:
  """Returns the regime of a method: 'KD' for 'KD, kd_form=hinton'."""
  return method.partition(',')[0]


def variants(runs: Sequence[Run]) -> dict[str, str]:
  """Maps the name of each run to the fields in which the recipes differ, the loss apart, as 'epochs=20'; often ''."""
  return {run: ', '.join(_words(values)) for run, values in _recipe_differences(runs, of_loss=False).items()}


def network_names(runs: Sequence[Run]) -> dict[str, str]:
  """Maps the name of each run to the name of its network.

  A network that a user's function makes has the function's name; if several functions share it, the whole reference
  `config.model.network`.
  """
  user_networks = {
    run.config.model.network: factory.network_name(run.config.model)
    for run in runs
    if factory.is_user_defined(run.config.model)
  }
  shared = {network for network, name in user_networks.items() if list(user_networks.values()).count(name) > 1}
  return {
    run.name: run.config.model.network if run.config.model.network in shared else factory.network_name(run.config.model)
    for run in runs
  }


def _starts(runs: Sequence[Run]) -> dict[str, str]:
  """Maps the name of each run to what it starts from, 'network' for the only workdir that runs of a network have."""
  names = network_names(runs)
  workdirs: dict[tuple[str, str], set[str]] = {}
  for run in runs:
    workdirs.setdefault((names[run.name], run.block), set()).add(run.config.distill.start)
  starts = {}
  for run in runs:
    start, others = run.config.distill.start, workdirs[names[run.name], run.block] - {'', 'blockwise'}
    starts[run.name] = 'network' if others == {start} else start
  return starts


def _recipe_differences(runs: Sequence[Run], of_loss: bool) -> dict[str, dict[str, Any]]:
  """Maps the name of each run to the fields in which the recipes differ: those of the loss, or all others."""
  recipes = {
    run.name: {name: value for name, value in run.recipe.items() if name.startswith('distill.') == of_loss}
    for run in runs
  }
  names = {name for recipe in recipes.values() for name in recipe}
  differing = sorted(name for name in names if len({str(recipe.get(name)) for recipe in recipes.values()}) > 1)
  return {run: {name: recipe[name] for name in differing if name in recipe} for run, recipe in recipes.items()}


def _words(values: dict[str, Any]) -> list[str]:
  # The fields of `blockwise` keep its name: others end as they do.
  words = {name: name if name.startswith('blockwise.') else name.rpartition('.')[2] for name in values}
  return [f'{words[name]}={value}' for name, value in values.items()]
