"""Trains a teacher, distils students from it by every regime with several seeds, and prints their table.

  python -m launch.sweep --config=configs/digits.py --blocks='G(N/8)' --seeds=3 --out=DIR

The config is the teacher's; a student is the same network of another block. Every run has a workdir of its own in DIR.
Started again, it goes on where it was.
"""

import copy
import re
from collections.abc import Iterator
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags

from moonshine_jax import config as config_lib
from moonshine_jax import errors, parallel, report, train
from moonshine_jax.models.blocks import Block

CONFIG = config_flags.DEFINE_config_file('config', None, "The teacher's config.")
OUT = flags.DEFINE_string('out', None, 'Folder for the workdirs of all runs.')
BLOCKS = flags.DEFINE_string('blocks', 'G(N/8)', 'Blocks of the students, separated by commas.')
REGIMES = flags.DEFINE_list('regimes', ['none', 'KD', 'AT'], 'Regimes, of none, KD, AT and KD+AT.')
SEEDS = flags.DEFINE_integer('seeds', 3, 'Students of each block and regime, with seeds from 0.', 1, 1000)


def runs(
  teacher: ml_collections.ConfigDict, blocks: list[str], regimes: list[str], seeds: int, out: Path
) -> Iterator[tuple[str, ml_collections.ConfigDict]]:
  """The workdir's name and the config of every run, the teacher's first."""
  yield 'teacher', teacher
  for block in blocks:
    for regime in regimes:
      for seed in range(seeds):
        student = copy.deepcopy(teacher)
        student.model.block = block
        student.seed = student.model.seed = seed
        if regime != 'none':
          student.distill.teacher = str(out / 'teacher')
          student.distill.alpha = teacher.distill.alpha if 'KD' in regime else 0.0
          student.distill.beta = teacher.distill.beta if 'AT' in regime else 0.0
        yield f'{re.sub("[^A-Za-z0-9+]+", "-", f"{block} {regime} seed {seed}")}', student


def main() -> None:
  errors.require_flags(config=CONFIG.value, out=OUT.value)
  for regime in REGIMES.value or ['']:
    if regime not in ('none', 'KD', 'AT', 'KD+AT'):
      raise errors.UserError(f'--regimes: {regime!r}: expected some of none, KD, AT, KD+AT')
  try:
    blocks = [str(block) for block in Block.parse_list(BLOCKS.value)]
  except ValueError as error:
    raise errors.UserError(f'--blocks: {error}') from error
  out = Path(OUT.value)
  teacher = config_lib.loaded(CONFIG.value)
  config_lib.check(teacher)
  if teacher.distill.students:
    raise errors.UserError('config.distill.students: expected none: a sweep makes its students of --blocks')
  todo = list(runs(teacher, blocks, REGIMES.value, SEEDS.value, out))
  for _, config in todo:  # all of them before the first, which may take hours
    config_lib.check(config)
  parallel.use_all_cores(teacher.batch_size)
  train.cache_compilations(out / '.jax_cache')
  for i, (name, config) in enumerate(todo, start=1):
    record, = train.train_and_evaluate(config, out / name).values()
    print(f'[{i}/{len(todo)}] {name}: test error {record["test_error"]:.2f}%', flush=True)
  print()
  print(report.table(report.collect(out)))


if __name__ == '__main__':
  errors.run_command(main)
