"""Trains a teacher, distils students from it by every regime with several seeds, and prints their table.

  python -m launch.sweep --config=configs/digits.py --blocks='G(N/8)' --seeds=3 --out=DIR
  python -m launch.sweep --config=configs/table3.py --out=DIR --workers=8 --config.model.dtype=bfloat16
  python -m launch.sweep --config=configs/digits.py --regimes=KD --kd_forms=released,equation,hinton --out=DIR

The config is the teacher's. The students are those that it names in distill.students, all of them or those of --blocks;
where it names none, the teacher's network with each of --blocks. They train in processes of `moonshine_jax.main`, up to
--together=N of one seed in one process, from one forward pass of the teacher, as the device's memory allows. A process
uses all devices; with --workers=N, N run at a time, each on a GPU of its own. Every network has a workdir of its own in
DIR, and what a process says is in a file `.log` beside its first one's.

Started again, the sweep leaves out what is done and goes on with the rest; SIGTERM or Ctrl-C stops it, with all saved.
With --dry_run it prints the commands instead, the teacher's first; the others may run in any order, anywhere, once that
is done (launch/sweep_slurm.sbatch).
"""

import copy
import dataclasses
import itertools
import shlex
import sys
import types
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

from moonshine_jax import config as config_lib
from moonshine_jax import errors
from moonshine_jax.errors import UserError
from moonshine_jax.launch import processes
from moonshine_jax.launch.progress import Progress
from moonshine_jax.models.blocks import Block
from moonshine_jax.report import runs as runs_lib
from moonshine_jax.report import table_formats
from moonshine_jax.workdir import checkpoint, metrics
from moonshine_jax.workdir import workdir as workdir_lib

REGIME_WORDS = {'none': 'alpha=0 beta=0', 'KD': 'beta=0', 'AT': 'alpha=0', 'KD+AT': ''}

CONFIG = config_flags.DEFINE_config_file('config', None, "The teacher's config; it may name the students.")
OUT = flags.DEFINE_string('out', None, 'Folder for the workdirs of all runs.')
BLOCKS = flags.DEFINE_string(
  'blocks', None, "Blocks of the students, separated by commas (default: all of the config's, or G(N/8))."
)
REGIMES = flags.DEFINE_list('regimes', ['none', 'KD', 'AT'], 'Regimes, of none, KD, AT and KD+AT.')
KD_FORMS = flags.DEFINE_list('kd_forms', [], "Forms of KD, each a student of its own (default: the config's alone).")
AT_FORMS = flags.DEFINE_list('at_forms', [], "Forms of AT, each a student of its own (default: the config's alone).")
SEEDS = flags.DEFINE_integer('seeds', 3, 'Students of each block and regime, with seeds from 0.', 1, 1000)
SCALE = flags.DEFINE_float(
  'scale', None, 'Trains for this share of the epochs on this share of the data: a rehearsal, not the result.', 0.01, 1
)
TOGETHER = flags.DEFINE_integer('together', 3, 'Students that learn in one process from one teacher.', 1, 100)
WORKERS = flags.DEFINE_integer('workers', 1, 'Processes at a time; of several, each has a GPU of its own.', 1, 64)
DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Prints the commands of all runs and trains nothing.')


@dataclasses.dataclass(frozen=True)
class Run:
  """A process of `moonshine_jax.main`: its --workdir, and what it changes in the sweep's config."""

  workdir: Path
  changes: dict[str, Any]
  config: ml_collections.ConfigDict

  @property
  def networks(self) -> dict[Path, ml_collections.ConfigDict]:
    """The config of each network that it trains, by workdir."""
    return {self.workdir / name: config for name, config in config_lib.students(self.config).items()}

  def flags(self, config_file: str, overrides: dict[str, Any]) -> list[str]:
    """The flags of `moonshine_jax.main`, where the sweep had these overrides of its config's file."""
    values = {**overrides, **self.changes}
    return [
      f'--config={config_file}',
      *(f'--config.{name}={value}' for name, value in values.items()),
      f'--workdir={self.workdir}',
    ]


def make_run(base: ml_collections.ConfigDict, workdir: Path, **changes: Any) -> Run:
  """A run of the config with changes, '__' in their names standing for a dot."""
  changes = {name.replace('__', '.'): value for name, value in changes.items()}
  config = copy.deepcopy(base)
  config.update_from_flattened_dict(changes)
  return Run(workdir, changes, config)


def students(base: ml_collections.ConfigDict, blocks: Sequence[str], ways: Sequence[str]) -> list[str]:
  """The words of every student of one seed, as in distill.students: each network learning in each of the ways."""
  rows = base.distill.students or [f'block={block}' for block in blocks or ['G(N/8)']]
  if base.distill.students and blocks:
    configs = config_lib.students(base).values()
    rows = [row for row, config in zip(rows, configs, strict=True) if config.model.block in blocks]
    if not rows:
      raise UserError(f'--blocks: none of {", ".join(blocks)} is among the students of the config')
  return [f'{row} {way}'.strip() for row, way in itertools.product(rows, ways)]


def ways(regimes: Sequence[str], kd_forms: Sequence[str], at_forms: Sequence[str]) -> list[str]:
  """The words of how a student learns: each regime, in each form of the losses that it has."""
  found = []
  for regime in regimes:
    if regime not in REGIME_WORDS:
      raise UserError(f'--regimes: {regime!r}: expected some of {", ".join(REGIME_WORDS)}')
    forms = [
      [f'{name}={value}' for value in values if loss in regime] or ['']
      for loss, name, values in (('KD', 'kd_form', kd_forms), ('AT', 'at_form', at_forms))
    ]
    found += [' '.join(' '.join(words).split()) for words in itertools.product([REGIME_WORDS[regime]], *forms)]
  return found


def plan(
  base: ml_collections.ConfigDict,
  words: Sequence[str],
  seeds: int,
  together: int,
  out: Path,
  reached: Mapping[Path, int] = types.MappingProxyType({}),
  done: Container[Path] = (),
) -> Iterator[Run]:
  """The runs of all students but those that are done; the students of a run have reached the same step."""
  for seed in range(seeds):
    shared = dict(seed=seed, model__seed=seed, distill__teacher=str(out / 'teacher'))
    everyone = make_run(base, out / f'seed-{seed}', **shared, distill__students=tuple(words))
    by_step = {}
    for each, workdir in zip(words, everyone.networks, strict=True):
      if workdir not in done:
        by_step.setdefault(reached.get(workdir, 0), []).append(each)
    for alike in by_step.values():
      for start in range(0, len(alike), together):
        yield make_run(base, everyone.workdir, **shared, distill__students=tuple(alike[start : start + together]))


def scaled(base: ml_collections.ConfigDict, scale: float) -> dict[str, Any]:
  """What --scale changes in a config: the epochs, and what is counted in them, and the training split."""
  if base.data.train_split != 'train':
    raise UserError(f'--scale: config.data.train_split={base.data.train_split!r}: expected train')

  def shrink(epochs):
    return max(1, round(scale * epochs))

  return {
    'epochs': shrink(base.epochs),
    'checkpoint_every': shrink(base.checkpoint_every),
    'optimizer.decay_epochs': tuple(sorted({shrink(epoch) for epoch in base.optimizer.decay_epochs})),
    'eval_every': shrink(base.epochs),  # the last epoch alone, since the test split stays whole
    'data.train_split': f'train[:{round(100 * scale)}%]',
  }


def newest_step(workdir: Path) -> int:
  """The step of the newest checkpoint, or 0."""
  try:
    return checkpoint.Checkpoints(workdir).steps[-1]
  except UserError:
    return 0


def is_done(config: ml_collections.ConfigDict, workdir: Path, step: int) -> bool:
  """Whether the last epoch's record is there, and the checkpoint at the newest step is its."""
  records = metrics.read(workdir)
  return bool(records) and (records[-1]['epoch'], records[-1]['step']) == (config.epochs, step)


def main() -> None:
  errors.require_flags(config=CONFIG.value, out=OUT.value)
  jax.config.update('jax_platforms', 'cpu')  # of this process, which only counts: the devices are for the runs
  out = Path(OUT.value)
  base = config_lib.loaded(CONFIG.value)
  config_lib.check(base)
  overrides = dict(config_flags.get_override_values(flags.FLAGS['config']))
  if SCALE.value is not None:
    changes = scaled(base, SCALE.value)
    overrides |= changes
    base.update_from_flattened_dict(changes)
  try:
    blocks = [str(block) for block in Block.parse_list(BLOCKS.value)] if BLOCKS.value is not None else []
  except ValueError as error:
    raise UserError(f'--blocks: {error}') from error
  words = students(base, blocks, ways(REGIMES.value or [''], KD_FORMS.value, AT_FORMS.value))
  teacher = make_run(base, out / 'teacher', distill__students=())

  def command(run, python):
    config_file = config_flags.get_config_filename(flags.FLAGS['config'])
    return [python, '-m', 'moonshine_jax.main', *run.flags(config_file, overrides)]

  environments = processes.environments(WORKERS.value)
  runs = [teacher, *plan(base, words, SEEDS.value, TOGETHER.value, out)]
  if DRY_RUN.value:
    for run in runs:
      print(shlex.join(command(run, 'python')))
    return

  networks = {workdir: config for run in runs for workdir, config in run.networks.items()}
  for workdir, config in networks.items():  # all of them before the first, which may take hours
    workdir_lib.check_workdir(config, workdir)
  label = f'{base.epochs} epochs of {base.data.train_split}: a rehearsal, not the result'
  if SCALE.value is not None:
    print(label, flush=True)
  reached = {workdir: newest_step(workdir) for workdir in networks}
  done = {workdir for workdir, config in networks.items() if is_done(config, workdir, reached[workdir])}
  if done:
    print(f'{len(done)} of {len(networks)} networks are done: left out', flush=True)
  progress = Progress(networks, TOGETHER.value)

  def run_all(runs, environments):
    commands = {Path(f'{next(iter(run.networks))}.log'): command(run, sys.executable) for run in runs}
    processes.run_all(commands, environments, tell=lambda: print(progress.line(), flush=True))

  if teacher.workdir not in done:
    run_all([teacher], processes.environments(1))
  run_all(plan(base, words, SEEDS.value, TOGETHER.value, out, reached, done), environments)

  print()
  if SCALE.value is not None:
    print(label)
  print(table_formats.summary_markdown(runs_lib.collect_runs(out)))


if __name__ == '__main__':
  errors.run_command(main)
