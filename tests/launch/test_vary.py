"""`sweep --vary`: which students at which points in which jobs, and what is told of their held-out errors."""

from pathlib import Path

import pytest

from moonshine_jax import config as config_lib
from moonshine_jax.configs import digits
from moonshine_jax.errors import UserError
from moonshine_jax.launch import jobs, vary
from moonshine_jax.runtime import files
from moonshine_jax.workdir import metrics
from moonshine_jax.workdir.workdir import Workdir

FLAGS = ['distill.temperature=2,4,8', 'data.mixup=0,0.2', 'optimizer.decay_epochs=(6,12),(10,15)']


def test_values_have_the_types_of_their_fields():
  assert vary.parse_vary([*FLAGS, 'distill.standardise=True,False', 'model.block=G(N/8),B(2)']) == {
    'distill.temperature': [2.0, 4.0, 8.0],
    'data.mixup': [0.0, 0.2],
    'distill.standardise': [True, False],
    'optimizer.decay_epochs': [(6, 12), (10, 15)],
    'model.block': ['G(N/8)', 'B(2)'],
  }


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['distill.temprature=2'], "--vary=distill.temprature=2: 'distill.temprature': expected FIELD=VALUE,VALUE"),
    (['seed=1,2'], "--vary=seed=1,2: 'seed': expected --seeds"),
    (['data.test_split=test,train'], "'data.test_split': expected one data set"),
    (['distill.alpha=0.5', 'distill.alpha=0.9'], "'distill.alpha': expected FIELD=VALUE,VALUE of another field"),
    (['distill.alpha=half'], '--vary=distill.alpha=half: could not convert'),
    (['distill.alpha=-1'], '--vary=distill.alpha=-1: -1.0: expected a number of at least 0'),
    (['optimizer.decay_epochs=6'], "'6': expected a tuple"),
  ],
)
def test_what_cannot_be_varied(flags, message):
  with pytest.raises(UserError, match=message):
    vary.parse_vary(flags)


def test_every_combination_or_some_of_them_the_same_each_time():
  varied = vary.parse_vary(FLAGS)
  points = vary.choose_points(varied, None)
  assert len(points) == 12 == len({str(point) for point in points})
  some = vary.choose_points(varied, 5)
  assert some == vary.choose_points(varied, 5) and len(some) == 5 and all(point in points for point in some)
  assert vary.choose_points(varied, 50) == points
  assert vary.vary_students(['block=S'], vary.choose_points({}, None)) == [vary.Varied('block=S', {}, 'block=S', {})]


def test_students_share_a_job_where_their_fields_can():
  base = digits.get_config()
  students = vary.vary_students(['block=S'], vary.choose_points(vary.parse_vary(FLAGS), None))
  groups = vary.group_by_job(students)
  assert [changes for changes, _ in groups] == [{'data.mixup': 0.0}, {'data.mixup': 0.2}]
  planned = [
    job for changes, words in groups for job in jobs.plan_jobs(base, words, 1, 6, Path('out'), changes=changes)
  ]
  assert [str(job.workdir) for job in planned] == ['out/data.mixup-0.0/seed-0', 'out/data.mixup-0.2/seed-0']
  networks = {path: config for job in planned for path, config in job.networks.items()}
  assert len(networks) == 12
  for each in students:
    (config,) = [
      config
      for config in networks.values()
      if all(config_lib.flatten(config)[field] == value for field, value in each.point.items())
    ]
    config_lib.check(config)
  assert '--config.data.mixup=0.2' in planned[1].flags('digits', {})


def test_the_tables_of_a_choice(tmp_path):
  base = digits.get_config()
  varied = vary.parse_vary(['distill.temperature=2,4', 'data.mixup=0,0.2'])
  students = vary.vary_students(['block=S'], vary.choose_points(varied, None))
  errors = {(2.0, 0.0): (5, 6), (2.0, 0.2): (7, 8), (4.0, 0.0): (3, 4), (4.0, 0.2): (9,)}
  for each in students:
    for seed, error in enumerate(errors[tuple(each.point.values())]):
      workdir = jobs.job_folder(tmp_path, each.changes, seed) / config_lib.folder_name(each.words)
      workdir.mkdir(parents=True)
      Workdir(workdir).write_config(base)
      files.append_record(workdir / metrics.FILE, {'epoch': base.epochs, 'step': 20, 'test_error': error})
  found = vary.read_errors(base, students, 2, tmp_path)
  assert found == [[5, 6], [7, 8], [3, 4], [9]]
  lines = [[cell.strip() for cell in line.split('|')[1:-1]] for line in vary.tell_choice(students, found).splitlines()]
  # Of a value, over the means of its points: of temperature 2 (5.5 + 7.5) / 2, of deviation sqrt(2) over sqrt(2).
  assert ['distill.temperature', '2.0', '6.50 ± 1.00', '2'] in lines
  assert ['data.mixup', '0.0', '4.50 ± 1.00', '2'] in lines
  assert ['4.0', '0.0', '3.50 ± 0.50', '2'] in lines and ['4.0', '0.2', '9.00', '1'] in lines
  assert (
    vary.tell_choice(students, found)
    .splitlines()[-1]
    .startswith(
      'best of 4 points: --config.distill.temperature=4.0 --config.data.mixup=0.0: 3.50 ± 0.50% (over 2 seeds).'
    )
  )
