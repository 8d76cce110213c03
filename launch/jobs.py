"""The jobs of a sweep: which networks each trains, and by which command."""

import copy
import dataclasses
import itertools
import types
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from moonshine_jax import config as config_lib
from moonshine_jax.errors import UserError

REGIME_WORDS = {'none': 'alpha=0 beta=0', 'KD': 'beta=0', 'AT': 'alpha=0', 'KD+AT': ''}


@dataclasses.dataclass(frozen=True)
class Job:
  """A process of `moonshine train`.

  Attributes:
    workdir: its --workdir.
    changes: what it changes in the config of the sweep, by dotted names.
    config: its config.
  """

  workdir: Path
  changes: dict[str, Any]
  config: ml_collections.ConfigDict

  @property
  def networks(self) -> dict[Path, ml_collections.ConfigDict]:
    """The config of each network that it trains, by workdir."""
    return {self.workdir / name: config for name, config in config_lib.students(self.config).items()}

  def flags(self, config_file: str, overrides: dict[str, Any]) -> list[str]:
    """Returns the flags of `moonshine train` for this job, where the sweep overrides fields of its config file."""
    values = {**overrides, **self.changes}
    fields = [f'--config.{name}={value}' for name, value in values.items()]
    return [f'--config={config_file}', *fields, f'--workdir={self.workdir}']


def create_job(base: ml_collections.ConfigDict, workdir: Path, changes: dict[str, Any]) -> Job:
  """Returns the job of a config with changes, by dotted names."""
  config = copy.deepcopy(base)
  config.update_from_flattened_dict(changes)
  return Job(workdir, changes, config)


def plan_jobs(
  base: ml_collections.ConfigDict,
  words: Sequence[str],
  seeds: int,
  together: int,
  out: Path,
  reached: Mapping[Path, int] = types.MappingProxyType({}),
  done: Container[Path] = (),
  changes: Mapping[str, Any] = types.MappingProxyType({}),
) -> Iterator[Job]:
  """Plans the jobs of all students but those that are done.

  Args:
    base: config of the sweep, which may name a teacher in place of the sweep's own.
    words: the words of every student of one seed, as in `distill.students`.
    seeds: number of seeds, from 0.
    together: how many students of one seed a job trains, at most.
    out: folder of the sweep.
    reached: the step that each student has reached, by workdir; the students of a job have reached the same.
    done: workdirs of the students to leave out.
    changes: fields in which the jobs differ from the config, by dotted names; they have a folder for them.

  Yields:
    The jobs, by seed.
  """
  for seed in range(seeds):
    teacher = base.distill.teacher or str(out / 'teacher')
    shared = {**changes, 'seed': seed, 'model.seed': seed, 'distill.teacher': teacher}
    workdir = job_folder(out, changes, seed)
    everyone = create_job(base, workdir, {**shared, 'distill.students': tuple(words)})
    by_step: dict[int, list[str]] = {}
    for student, student_workdir in zip(words, everyone.networks, strict=True):
      if student_workdir not in done:
        by_step.setdefault(reached.get(student_workdir, 0), []).append(student)
    for students in by_step.values():
      for start in range(0, len(students), together):
        yield create_job(base, workdir, {**shared, 'distill.students': tuple(students[start : start + together])})


def job_folder(out: Path, changes: Mapping[str, Any], seed: int) -> Path:
  """Returns the workdir of the jobs of a seed; see `plan_jobs`."""
  return out / config_lib.folder_name(' '.join(f'{name}={value}' for name, value in changes.items())) / f'seed-{seed}'


def student_words(base: ml_collections.ConfigDict, blocks: Sequence[str], methods: Sequence[str]) -> list[str]:
  """Returns the words of every student of one seed, as in `distill.students`: each network by each method.

  Args:
    base: config of the sweep, which may name the students.
    blocks: of which students are wanted; empty for all that the config names, or G(N/8) where it names none.
    methods: of `method_words`.

  Raises:
    UserError: where no student of the config has one of the blocks.
  """
  networks = base.distill.students or [f'block={block}' for block in blocks or ['G(N/8)']]
  if base.distill.students and blocks:
    configs = config_lib.students(base).values()
    networks = [words for words, config in zip(networks, configs, strict=True) if config.model.block in blocks]
    if not networks:
      raise UserError(f'--blocks: none of {", ".join(blocks)} is among the students of the config')
  return [f'{network} {method}'.strip() for network, method in itertools.product(networks, methods)]


def check_regimes(base: ml_collections.ConfigDict, words: Sequence[str], regimes: Sequence[str]) -> None:
  """Raises UserError for a student that does not learn by the regime that is asked for, for want of a weight.

  Args:
    base: config of the sweep.
    words: of `student_words`.
    regimes: of the methods that these were made with.
  """
  job = create_job(base, Path(), {'distill.teacher': 'teacher', 'distill.students': tuple(words)})
  for student, config, regime in zip(words, job.networks.values(), itertools.cycle(regimes), strict=False):
    if (found := config_lib.regime(config)) != regime:
      raise UserError(
        f'--regimes={regime}: with config.distill.alpha={config.distill.alpha:g} and beta={config.distill.beta:g} the '
        f'student {student!r} learns by {found}: expected weights above 0, or --regimes= for those of the config'
      )


def method_words(regimes: Sequence[str], kd_forms: Sequence[str], at_forms: Sequence[str]) -> list[str]:
  """Returns the words of how students learn: each regime, in each form of the losses that it has. Raises UserError."""
  methods = []
  for regime in regimes:
    if regime not in REGIME_WORDS:
      raise UserError(f'--regimes: {regime!r}: expected some of {", ".join(REGIME_WORDS)}')
    forms = [
      [f'{field}={form}' for form in forms if loss in regime] or ['']
      for loss, field, forms in (('KD', 'kd_form', kd_forms), ('AT', 'at_form', at_forms))
    ]
    methods += [' '.join(' '.join(words).split()) for words in itertools.product([REGIME_WORDS[regime]], *forms)]
  return methods


def rehearsal(base: ml_collections.ConfigDict, scale: float) -> dict[str, Any]:
  """Returns what --scale changes in a config: the epochs, and what is counted in them, and the training split.

  Raises UserError where the config trains on a part of the split already.
  """
  if base.data.train_split != 'train':
    raise UserError(f'--scale: config.data.train_split={base.data.train_split!r}: expected train')

  def shrink(epochs: int) -> int:
    return max(1, round(scale * epochs))

  values = config_lib.flatten(base)
  warm_ups = ('optimizer.warmup_epochs', 'distill.kd_warmup', 'distill.at_warmup')
  return {
    **{name: round(scale * values[name]) for name in warm_ups if values[name]},
    'epochs': shrink(base.epochs),
    'checkpoint_every': shrink(base.checkpoint_every),
    'optimizer.decay_epochs': tuple(sorted({shrink(epoch) for epoch in base.optimizer.decay_epochs})),
    'eval_every': shrink(base.epochs),  # the last epoch alone, since the test split stays whole
    'data.train_split': f'train[:{round(100 * scale)}%]',
  }
