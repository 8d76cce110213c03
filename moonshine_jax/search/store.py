"""The folder of a search: what its stages have left, and whether it is of the same search."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from typing_extensions import TypedDict

from moonshine_jax.errors import UserError, shown
from moonshine_jax.runtime import files, json_files
from moonshine_jax.search.settings import OF_CANDIDATES, OF_CHOICE, Settings
from moonshine_jax.search.space import Space
from moonshine_jax.workdir import provenance
from moonshine_jax.workdir.trained import Trained
from moonshine_jax.workdir.workdir import CANDIDATES_FOLDER, SOLUTIONS_FOLDER, Workdir
from moonshine_jax.workdir.zoo import absolute_workdir

SEARCH_FILE, SCORES_FILE, FOUND_FILE = 'search.json', 'scores.json', 'found.json'
LATENCIES_FILE, WHOLE_LATENCIES_FILE = 'latencies.json', 'whole_latencies.json'
NETWORKS_FOLDER = 'networks'
BUDGET_NAMES = {'parameters': 'params', 'multiply_adds': 'macs', 'latency': 'ms'}  # in a folder's name

Losses = dict[str, float]  # 'kl', 'ce', and 'error' in percent


class _SearchValues(TypedDict):
  settings: dict[str, Any]
  teacher: str
  step: int


class _LatencyValues(TypedDict):
  places: list[str]
  candidates: list[str]
  seconds: list[list[float]]
  measuring: float


class _CandidateValues(TypedDict):
  alone: dict[str, Losses]
  uniform: Losses


class _ScoreValues(TypedDict):
  teacher: Losses
  candidates: dict[str, _CandidateValues]
  seconds: dict[str, float]


class _SolutionValues(TypedDict):
  block: str
  kl: float
  ce: float
  error: float


class _TestValues(TypedDict):
  test_error: float


class _FoundValues(TypedDict):
  settings: dict[str, Any]
  budget: dict[str, float]
  block: str
  choice: list[Annotated[int, Meta(ge=0)]]
  solutions: list[_SolutionValues]
  seconds: dict[str, float]
  test: _TestValues


class Store:
  """The folder of a search.

  Attributes:
    path: of the folder.
  """

  def __init__(self, path: str | os.PathLike, teacher: Trained, space: Space, settings: Settings):
    """Takes a folder, which may not be there yet. Raises UserError where another search is in it."""
    self.path = Path(path)
    self._space, self._settings = space, settings
    Workdir(self.path).check_path()
    self._search: dict[str, Any] = {
      'settings': {**settings.of(OF_CANDIDATES), 'candidates': list(space.candidates)},
      'teacher': absolute_workdir(teacher.workdir),
      'step': teacher.step,
    }
    file = self.path / SEARCH_FILE
    if file.exists():
      theirs = json_files.read_json(file, _SearchValues, 'what `moonshine search` writes')
      _compare(self.path, self._search['settings'] | self._search, theirs['settings'] | dict(theirs))
      return
    with files.writing(self.path):
      if self.path.exists() and any(self.path.iterdir()):
        raise UserError(f'{self.path}: holds other files than of a search: expected a new folder')

  def begin(self) -> None:
    """Keeps in the folder which search is in it, unless that is done: from now on another one is refused."""
    if not (self.path / SEARCH_FILE).exists():
      self._write(self.path / SEARCH_FILE, {**self._search, 'environment': provenance.environment()})

  @property
  def parts(self) -> list[list[int]]:
    """The candidates that learn in one run each: their columns in arrays over candidates."""
    columns = [column for column in range(1, 1 + len(self._space.candidates)) if self._space.fits[:, column].any()]
    together = self._settings.together
    return [columns[start : start + together] for start in range(0, len(columns), together)]

  def run_folder(self, part: Sequence[int]) -> Path:
    """Returns the folder of the run in which some candidates learn."""
    return self.path / CANDIDATES_FOLDER / str(part[0])

  def read_latencies(self) -> np.ndarray | None:
    """Returns the seconds of each candidate at each place, (places, 1 + candidates), where they are measured."""
    file = self.path / LATENCIES_FILE
    if not file.exists():
      return None
    values = json_files.read_json(file, _LatencyValues, 'what `moonshine search` writes')
    seconds = np.array(values['seconds'], float)
    if seconds.shape != self._space.fits.shape:
      raise UserError(f'{file}: damaged: expected the latencies of {self._space.fits.shape} candidates at places')
    return seconds

  def write_latencies(self, seconds: np.ndarray, measuring: float) -> None:
    """Writes the latencies, and the seconds in which they were measured."""
    values = {
      'places': list(self._space.places),
      'candidates': ['', *self._space.candidates],
      'seconds': seconds.tolist(),
      'measuring': measuring,
      'batch': self._settings.latency_batch,
      'environment': provenance.environment(),
    }
    self._write(self.path / LATENCIES_FILE, values)

  def read_whole_latencies(self) -> dict[str, float]:
    """Returns the seconds of whole networks that have been measured, by notation."""
    file = self.path / WHOLE_LATENCIES_FILE
    return dict(json_files.read_json(file, dict[str, float], 'what `moonshine search` writes')) if file.exists() else {}

  def write_whole_latencies(self, seconds: Mapping[str, float]) -> None:
    """Writes the seconds of whole networks."""
    self._write(self.path / WHOLE_LATENCIES_FILE, dict(seconds))

  @property
  def is_scored(self) -> bool:
    """Whether all candidates have learnt and are scored."""
    return all(map(self.has_scores, self.parts))

  def has_scores(self, part: Sequence[int]) -> bool:
    """Whether some candidates have learnt and are scored."""
    return (self.run_folder(part) / SCORES_FILE).exists()

  def write_scores(
    self,
    part: Sequence[int],
    teacher: Losses,
    alone: Sequence[Mapping[str, Losses]],
    uniform: Sequence[Losses],
    seconds: Mapping[str, float],
  ) -> None:
    """Writes the scores of some candidates.

    Args:
      part: their columns.
      teacher: losses of the teacher.
      alone: for each candidate, by place, the losses of the teacher with it there alone.
      uniform: for each candidate the losses of the network that has it wherever it fits.
      seconds: that the stages took, in the process that ended them.
    """
    candidates = {
      self._space.candidates[column - 1]: {'alone': dict(alone[i]), 'uniform': uniform[i]}
      for i, column in enumerate(part)
    }
    values = {'teacher': teacher, 'candidates': candidates, 'seconds': dict(seconds)}
    self._write(self.run_folder(part) / SCORES_FILE, values)

  def read_scores(self) -> tuple[np.ndarray, dict[int, Losses], Losses, dict[str, float]]:
    """Reads the scores of all candidates.

    Returns:
      What each candidate alone adds to the loss of the teacher, (places, 1 + candidates); the losses of the uniform
      networks by candidate; those of the teacher; and the seconds that the stages took, each part in the process that
      ended it.
    """
    space, name = self._space, self._settings.score
    scores = np.zeros(space.fits.shape)
    uniform: dict[int, Losses] = {}
    seconds: dict[str, float] = {}
    teacher: Losses = {}
    for part in self.parts:
      file = self.run_folder(part) / SCORES_FILE
      values = json_files.read_json(file, _ScoreValues, 'what `moonshine search` writes')
      teacher = values['teacher']
      for stage, taken in values['seconds'].items():
        seconds[stage] = seconds.get(stage, 0.0) + taken
      for column in part:
        try:
          of_candidate = values['candidates'][space.candidates[column - 1]]
          uniform[column] = of_candidate['uniform']
          for place in np.flatnonzero(space.fits[:, column]).tolist():
            scores[place, column] = of_candidate['alone'][space.places[place]][name] - teacher[name]
        except KeyError as error:
          raise UserError(f'{file}: damaged: {error} is missing: expected what `moonshine search` writes') from error
    return scores, uniform, teacher, seconds

  def block_variables(self, column: int, trust_code: bool) -> dict[str, Any]:
    """Returns the variables of the network that has a candidate wherever it fits, each block as it has learnt alone."""
    (part,) = (part for part in self.parts if column in part)
    (workdir,) = (
      workdir
      for workdir in sorted(self.run_folder(part).iterdir())
      if workdir.is_dir()
      and Workdir(workdir).begun
      and Workdir(workdir).config.model.block == self._space.notation(self._space.uniform(column))
    )
    return Trained.open(workdir, trust_code).variables

  def network_folder(self, budget: Mapping[str, float]) -> Path:
    """Returns the workdir of the network of a budget."""
    words = [
      f'{BUDGET_NAMES[name]}-{1e3 * most if name == "latency" else most:.10g}' for name, most in sorted(budget.items())
    ]
    return self.path / NETWORKS_FOLDER / '_'.join(words)

  def solutions_folder(self, network: Path) -> Path:
    """Returns the folder of the networks that are tuned for a budget."""
    return network / SOLUTIONS_FOLDER

  def is_found(self, network: Path) -> bool:
    """Whether the network of a budget is found. Raises UserError where it was by other settings."""
    if not Workdir(network).begun:
      return False
    _compare(network, self._settings.of(OF_CHOICE), self.read_found(network)['settings'])
    return True

  def read_found(self, network: Path) -> dict[str, Any]:
    """Reads what `write_found` has written. Raises UserError where it is damaged."""
    values = json_files.read_json(network / FOUND_FILE, _FoundValues, 'what `moonshine search` writes')
    places, candidates = self._space.fits.shape
    if len(values['choice']) != places or max(values['choice']) >= candidates:
      raise UserError(
        f'{network / FOUND_FILE}: damaged: chooses {shown(values["choice"])}: expected {places} numbers of candidates'
      )
    return dict(values)

  def write_found(self, network: Path, values: Mapping[str, Any]) -> None:
    """Writes what is known of a network that was chosen: see `_FoundValues`."""
    self._write(network / FOUND_FILE, {'settings': self._settings.of(OF_CHOICE), **values})

  def networks(self) -> list[Path]:
    """Returns the workdirs of all networks that were found, of all budgets."""
    return [
      path.parent
      for path in sorted((self.path / NETWORKS_FOLDER).glob(f'*/{FOUND_FILE}'))
      if Workdir(path.parent).begun
    ]

  @staticmethod
  def _write(file: Path, values: Mapping[str, Any]) -> None:
    with files.writing(file.parent):
      file.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(file, json.dumps(values, indent=1, allow_nan=False) + '\n')


def read_search(path: str | os.PathLike) -> tuple[str, Settings]:
  """Returns the workdir of the teacher of the search in a folder, and its settings, those of a choice as by default.

  Raises UserError where there is no search.
  """
  values = json_files.read_json(Path(path) / SEARCH_FILE, _SearchValues, 'what `moonshine search` writes')
  settings: dict[str, Any] = {
    name: tuple(value) if isinstance(value, list) else value for name, value in values['settings'].items()
  }
  try:
    return values['teacher'], Settings(**settings)
  except TypeError as error:
    raise UserError(
      f'{Path(path) / SEARCH_FILE}: damaged ({error}): expected what `moonshine search` writes'
    ) from error


def _compare(where: Path, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
  """Raises UserError where two searches differ in what both name."""
  differences = [
    f'{name}={shown(value)} (there: {shown(theirs.get(name))})'
    for name, value in ours.items()
    if name != 'settings' and theirs.get(name) != value
  ]
  if differences:
    raise UserError(f'{where} holds another search: {", ".join(differences)}: expected the same, or another --out')
