"""`moonshine sweep`: trains a teacher and its students in processes, and prints their table.

`python -m launch.sweep` from the root of a clone is the same; `moonshine sweep --help` is its manual.
"""

import shlex
import sys
import types
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
from absl.flags import FlagValues
from ml_collections import config_flags

from moonshine_jax import config as config_lib
from moonshine_jax.cli import app
from moonshine_jax.errors import UserError, say, warn
from moonshine_jax.launch import jobs, processes, vary
from moonshine_jax.launch.jobs import Job
from moonshine_jax.launch.progress import SweepProgress, multiply_adds
from moonshine_jax.models.blocks import Block
from moonshine_jax.report import runs as runs_lib
from moonshine_jax.report import table_formats
from moonshine_jax.runtime import files
from moonshine_jax.workdir.network_file import open_workdir
from moonshine_jax.workdir.workdir import AVERAGE_FOLDER, Workdir


def main(values: FlagValues) -> None:
  """Trains all networks of the sweep that are not done, and prints the table of all; or prints the commands."""
  jax.config.update('jax_platforms', 'cpu')  # of this process, which only counts: the devices are for the jobs
  out, base = Path(values.out), values.config
  changes = change_config(base, values)
  overrides = dict(config_flags.get_override_values(values['config'])) | changes
  students = plan_students(base, values)

  def plan(reached: Mapping[Path, int] = types.MappingProxyType({}), done: Container[Path] = ()) -> Iterator[Job]:
    for of_job, words in vary.group_by_job(students):
      yield from jobs.plan_jobs(base, words, values.seeds, values.together, out, reached, done, of_job)

  teachers = plan_teachers(base, out)
  everything = [*teachers, *plan()]
  config_file = app.config_name(config_flags.get_config_filename(values['config']))

  def command(job: Job, python: str) -> list[str]:
    trust = ['--trust_code'] if values.trust_code else []
    return [python, '-m', 'moonshine_jax.main', *job.flags(config_file, overrides), *trust]

  environments = processes.environments(values.workers)
  if values.dry_run:
    for job in everything:
      say(shlex.join(command(job, 'python')))
    return

  if not teachers:
    check_teacher(base)
  networks = {path: config for job in everything for path, config in job.networks.items()}
  for path, config in networks.items():  # all of them before the first, which may take hours
    config_lib.check_trains(config)
    files.check_inside(path, out)
    Workdir(path).check(config)
  label = f'{base.epochs} epochs of {base.data.train_split}: a rehearsal, not the result\n' * (values.scale is not None)
  if label:
    say(label.strip())
  reached = {path: Workdir(path).step for path in networks}
  done = networks_done(networks, reached)
  if done:
    say(f'{len(done)} of {len(networks)} networks are done: left out')
  teacher = multiply_adds(base) if teachers else recorded_multiply_adds(base.distill.teacher)
  progress = SweepProgress(networks, teacher, values.together)
  run_jobs([job for job in teachers if job.workdir not in done], processes.environments(1), command, progress)
  run_jobs(plan(reached, done), environments, command, progress)
  say(f'\n{label}{make_table(base, students, values)}')


def make_table(base: ml_collections.ConfigDict, students: list[vary.Varied], values: FlagValues) -> str:
  """Returns the table of test errors; with --vary those of held-out errors."""
  if values.vary:
    return vary.tell_choice(students, vary.read_errors(base, students, values.seeds, Path(values.out)))
  return table_formats.summary_markdown(runs_lib.collect_runs(values.out))


def change_config(base: ml_collections.ConfigDict, values: FlagValues) -> dict[str, Any]:
  """Changes the config as --scale and --vary ask for it. Returns the changes, by dotted names. Raises UserError."""
  changes = jobs.rehearsal(base, values.scale) if values.scale is not None else {}
  if values.vary and not base.data.held_out:
    changes['data.held_out'] = vary.HELD_OUT  # of the teacher too, which is to have seen none of it
  base.update_from_flattened_dict(changes)
  return changes


def plan_teachers(base: ml_collections.ConfigDict, out: Path) -> list[Job]:
  """Returns the job of the teacher, which is the network of the config; none where the config names another."""
  return [] if base.distill.teacher else [jobs.create_job(base, out / 'teacher', {'distill.students': ()})]


def recorded_multiply_adds(teacher: str) -> int:
  """Returns the multiply-adds of a trained network as its run has recorded them: its code does not run here."""
  cost = open_workdir(teacher).cost
  return cost.multiply_adds or 0 if cost else 0


def check_teacher(base: ml_collections.ConfigDict) -> None:
  """Checks the teacher that a config names, before any job does. Raises UserError where there is none."""
  theirs = open_workdir(base.distill.teacher).config
  if base.data.held_out and theirs.data.held_out != base.data.held_out:
    warn(f'teacher {base.distill.teacher}: has seen images that are held out here: errors on them may be too low')


def plan_students(base: ml_collections.ConfigDict, values: FlagValues) -> list[vary.Varied]:
  """Returns every student of one seed, at every point of --vary. Raises UserError."""
  regimes = [] if values.vary and not values['regimes'].present else values.regimes  # the config's own loss is varied
  for flag, loss, forms in (('kd_forms', 'KD', values.kd_forms), ('at_forms', 'AT', values.at_forms)):
    if forms and not any(loss in regime for regime in regimes):
      raise UserError(f'--{flag}={",".join(forms)}: expected a regime with {loss} in --regimes')
  if values.points and not values.vary:
    raise UserError(f'--points={values.points}: expected --vary=FIELD=VALUE,VALUE, of which they are drawn')
  methods = {
    method: regime for regime in regimes for method in jobs.method_words([regime], values.kd_forms, values.at_forms)
  }
  words = jobs.student_words(base, parse_blocks(values.blocks), list(methods) or [''])
  if methods:
    jobs.check_regimes(base, words, list(methods.values()))
  return vary.vary_students(words, vary.choose_points(vary.parse_vary(values.vary), values.points))


def parse_blocks(notations: str | None) -> list[str]:
  """Returns the blocks of --blocks, as `Block` writes them. Raises UserError."""
  try:
    return [] if notations is None else [str(block) for block in Block.parse_list(notations)]
  except ValueError as error:
    raise UserError(f'--blocks: {error}') from error


def networks_done(networks: Mapping[Path, ml_collections.ConfigDict], reached: Mapping[Path, int]) -> set[Path]:
  """Returns the workdirs that have the record of the last epoch, its checkpoint as the newest, and its averages."""
  done = set()
  for path, config in networks.items():
    records = Workdir(path).records
    averaged = not config.optimizer.ema or Workdir(path / AVERAGE_FOLDER).begun
    if averaged and records and (records[-1]['epoch'], records[-1]['step']) == (config.epochs, reached[path]):
      done.add(path)
  return done


def run_jobs(
  planned: Iterable[Job],
  environments: list[dict[str, str]],
  command: Callable[[Job, str], list[str]],
  progress: SweepProgress,
) -> None:
  """Runs jobs, as many at a time as there are environments; the log of each lies beside its first workdir."""
  commands = {}
  for job in planned:
    first = next(iter(job.networks))
    commands[first.with_name(f'{first.name}.log')] = command(job, sys.executable)
  processes.run_all(commands, environments, tell=lambda: say(progress.line()))


if __name__ == '__main__':
  app.run('sweep')
