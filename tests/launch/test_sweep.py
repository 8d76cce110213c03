"""The sweep: which networks by which commands, what is left out, and the array of jobs."""

import shlex
import sys
from pathlib import Path
from unittest.mock import ANY

import pytest
from absl import flags
from ml_collections import config_flags

from moonshine_jax import config as config_lib
from moonshine_jax import paper
from moonshine_jax.cli import app
from moonshine_jax.configs import cifar10, digits, table3, table3_digits, table4
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError
from moonshine_jax.launch import jobs, processes, sweep
from moonshine_jax.runtime import files
from moonshine_jax.workdir import metrics, provenance
from moonshine_jax.workdir.workdir import Workdir
from tests.helpers.made_runs import START

OUT = Path('out')
REGIMES = ['none', 'KD', 'AT']


def plan(base, words, seeds=1, together=3, **more):
  return list(jobs.plan_jobs(base, words, seeds, together, OUT, **more))


def parse(monkeypatch, arguments):
  """The flags of a run as `moonshine_jax.main` has them."""
  values = flags.FlagValues()
  config_flags.DEFINE_config_file('config', flag_values=values)
  flags.DEFINE_string('workdir', None, '', flag_values=values)
  with monkeypatch.context() as patched:  # ml_collections looks for the overrides there
    patched.setattr(sys, 'argv', ['main', *arguments])
    values(sys.argv)
  return values


def test_every_student_by_every_regime_with_every_seed():
  base = digits.get_config()
  words = jobs.student_words(base, ['G(N/8)', 'B(2)'], jobs.method_words(REGIMES, [], []))
  runs = plan(base, words, seeds=2)
  networks = {path: config for run in runs for path, config in run.networks.items()}
  assert len(networks) == 2 * 3 * 2 and [len(run.networks) for run in runs] == [3] * 4
  for config in networks.values():
    config_lib.check(config)
  student = networks[OUT / 'seed-1/block-G-N-8-alpha-0']
  assert (student.model.block, student.seed, student.model.seed, config_lib.regime(student)) == ('G(N/8)', 1, 1, 'AT')
  assert (student.distill.teacher, student.distill.alpha, student.distill.beta) == ('out/teacher', 0.0, 62.5)
  assert config_lib.regime(networks[OUT / 'seed-0/block-B-2-beta-0']) == 'KD'
  assert config_lib.regime(networks[OUT / 'seed-0/block-B-2-alpha-0-beta-0']) == 'none'


@pytest.mark.parametrize(
  ('module', 'table', 'depths'),
  [
    (table3, paper.TABLE_3, {40: 40, 16: 16}),
    (table4, paper.TABLE_4, {40: 40, 16: 16}),
    (table3_digits, paper.TABLE_3, {40: 16, 16: 10}),
  ],
)
def test_the_tables_of_the_paper(module, table, depths):
  config = module.get_config()
  config_lib.check(config)
  models = [student.model for student in config_lib.students(config).values()]
  assert [(model.depth, model.width, model.block) for model in (config.model, *models)] == [
    (depths[row.depth], row.width, row.block) for row in table
  ]
  words = jobs.student_words(config, [], jobs.method_words(REGIMES, [], []))
  assert sum(len(run.networks) for run in plan(config, words)) == 75
  assert [words.split()[2] for words in jobs.student_words(config, ['S', 'G(N)'], [''])] == ['block=S'] * 3 + [
    'block=G(N)'
  ]
  with pytest.raises(UserError, match=r'--blocks: none of G\(3\) is among the students'):
    jobs.student_words(config, ['G(3)'], [''])


def test_forms_of_the_losses_belong_to_the_regimes_that_have_them():
  assert jobs.method_words(['none', 'KD', 'AT', 'KD+AT'], ['released', 'hinton'], ['equation']) == [
    'alpha=0 beta=0',
    'beta=0 kd_form=released',
    'beta=0 kd_form=hinton',
    'alpha=0 at_form=equation',
    'kd_form=released at_form=equation',
    'kd_form=hinton at_form=equation',
  ]


def test_a_regime_without_its_weight_is_refused():
  base = digits.get_config()
  base.distill.alpha = 0.0
  words = jobs.student_words(base, ['G(N/8)', 'B(2)'], jobs.method_words(REGIMES, [], []))
  message = r"^--regimes=KD: with config.distill.alpha=0 and beta=0 the student 'block=G\(N/8\) beta=0' learns by none"
  with pytest.raises(UserError, match=message):
    jobs.check_regimes(base, words, REGIMES)
  base.distill.alpha = 0.9
  jobs.check_regimes(base, words, REGIMES)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--regimes=AT', '--kd_forms=released,hinton'], '--kd_forms=released,hinton: expected a regime with KD in'),
    (['--vary=distill.alpha=1,2', '--at_forms=nmse'], '--at_forms=nmse: expected a regime with AT in --regimes'),
    (['--points=3'], '--points=3: expected --vary=FIELD=VALUE,VALUE'),
    (['--config.epochs=0'], 'config.epochs=0: expected at least 1'),
  ],
)
def test_what_would_have_no_effect_or_no_end_is_refused(arguments, message, monkeypatch, tmp_path, capsys):
  monkeypatch.setattr(sys, 'argv', sys.argv)  # which a command changes
  with pytest.raises(SystemExit):
    app.run('sweep', ['--config=digits', f'--out={tmp_path}/out', *arguments])
  assert capsys.readouterr().err.startswith(f'error: {message}') and not (tmp_path / 'out').exists()


def test_a_network_without_its_averages_is_not_done(tmp_path):
  config = digits.get_config()
  files.append_record(tmp_path / metrics.FILE, {'epoch': config.epochs, 'step': 20, 'test_error': 4.5})
  assert sweep.networks_done({tmp_path: config}, {tmp_path: 20}) == {tmp_path}
  config.optimizer.ema = 0.99
  assert not sweep.networks_done({tmp_path: config}, {tmp_path: 20})
  Workdir(tmp_path / 'ema').path.mkdir()
  Workdir(tmp_path / 'ema').write_config(config)
  assert sweep.networks_done({tmp_path: config}, {tmp_path: 20}) == {tmp_path}


def test_a_command_makes_the_config_that_was_planned(monkeypatch):
  base = cifar10.get_config()
  overrides = {'model.dtype': 'bfloat16', **jobs.rehearsal(base, 0.05)}
  base.update_from_flattened_dict(overrides)
  assert (base.epochs, base.eval_every, base.checkpoint_every, base.optimizer.decay_epochs) == (10, 10, 1, (3, 6, 8))
  assert base.data.train_split == 'train[:5%]'
  for run in plan(
    base, jobs.student_words(base, ['G(N/8)', 'S'], jobs.method_words(REGIMES, ['hinton'], [])), together=4
  ):
    values = parse(monkeypatch, shlex.split(shlex.join(run.flags('configs/cifar10.py', overrides))))
    assert values.config.to_dict() == run.config.to_dict()
    assert values.workdir == str(run.workdir)


def test_what_is_done_is_left_out_and_a_run_has_students_of_one_step():
  base = digits.get_config()
  words = jobs.student_words(base, ['S'], ['alpha=0', 'beta=0', '', 'alpha=0.5'])
  paths = [OUT / 'seed-0' / name for name in ('block-S-alpha-0', 'block-S-beta-0', 'block-S', 'block-S-alpha-0.5')]
  assert [list(run.networks) for run in plan(base, words)] == [paths[:3], paths[3:]]
  runs = plan(base, words, reached={paths[0]: 20, paths[2]: 40, paths[3]: 20}, done={paths[2]})
  assert [list(run.networks) for run in runs] == [[paths[0], paths[3]], [paths[1]]]


# Whole ----------------------------------------------------------------------------------------------------------------


def test_a_sweep_twice(tmp_path, monkeypatch, capsys):
  def finish(commands, environments, tell):
    """Leaves what the runs would leave, as their commands ask for it."""
    for command in commands.values():
      values = parse(monkeypatch, command[3:])
      for name, config in config_lib.students(values.config).items():
        workdir = Path(values.workdir) / name
        (workdir / 'checkpoints/20').mkdir(parents=True)
        Workdir(workdir).write_config(config)
        files.append_record(workdir / provenance.FILE, START | {'data': Facts((8, 8, 1), 10, (0.0,), (1.0,)).to_json()})
        files.append_record(workdir / metrics.FILE, {'epoch': 20, 'step': 20, 'test_error': 4.5})
      tell()

  monkeypatch.setattr(processes, 'run_all', finish)
  arguments = [
    '--config=configs/digits.py',
    '--blocks=B(2)',
    '--seeds=1',
    '--regimes=KD',
    '--kd_forms=released,hinton',
    f'--out={tmp_path}',
  ]
  monkeypatch.setattr(sys, 'argv', sys.argv)  # which a command changes

  def run_sweep(*more):
    app.run('sweep', [*arguments, *more])
    return capsys.readouterr().out.splitlines()

  first = run_sweep()
  assert first[0].startswith('1 of 3 networks, ') and first[1].startswith('3 of 3 networks, 100.0% of the ')
  assert first[2] == '' and [[cell.strip() for cell in line.split('|')[5:-1]] for line in first[3:]] == [
    ['Error, none', 'Error, KD, kd_form=hinton', 'Error, KD, kd_form=released'],
    ANY,
    ['4.50 (1)', '-', '-'],
    ['missing', '4.50 (1)', '4.50 (1)'],
  ]
  assert run_sweep() == ['3 of 3 networks are done: left out', *first[2:]]
  assert len(run_sweep('--dry_run')) == 2

  varied = run_sweep('--dry_run', '--vary=distill.temperature=2,8', f'--out={tmp_path}/varied')
  assert len(varied) == 1 + 2  # the teacher, and two jobs of three of the four students
  assert all('--config.data.held_out=0.1' in command for command in varied)


def test_a_teacher_that_the_config_names_is_not_trained(monkeypatch, tmp_path, capsys):
  arguments = [f'--out={tmp_path}/out', '--blocks=G(N/8)', '--seeds=2', '--dry_run']
  monkeypatch.setattr(sys, 'argv', sys.argv)  # which a command changes
  app.run('sweep', ['--config=configs/cifar10_20.py', *arguments, '--config.distill.teacher=zoo:wrn-16-1-cifar10'])
  jobs_of_seeds = capsys.readouterr().out.splitlines()
  assert len(jobs_of_seeds) == 2 and not (tmp_path / 'out').exists()
  for line in jobs_of_seeds:
    config = parse(monkeypatch, shlex.split(line)[3:]).config
    assert config.distill.teacher == 'zoo:wrn-16-1-cifar10' and len(config.distill.students) == 3
  base = digits.get_config()
  base.distill.teacher, base.data.held_out = 'zoo:wrn-16-1-cifar10', 0.1
  sweep.check_teacher(base)
  assert capsys.readouterr().err.startswith('warning: teacher zoo:wrn-16-1-cifar10: has seen images that are held out')


# Slurm ----------------------------------------------------------------------------------------------------------------


def test_a_task_of_the_array_takes_its_line(clone):
  run = plan(digits.get_config(), ['block=G(N/8) alpha=0', 'block=S beta=0'])[0]
  given = run.flags('configs/digits.py', {'data.data_dir': "a b'c $HOME"})
  (clone.root / 'sweep.txt').write_text(
    'python -m moonshine_jax.main --first\n' + shlex.join(['python', '-m', 'moonshine_jax.main', *given]) + '\n'
  )
  clone.stub('srun', 'exec "${@:2}"')
  clone.stub('scontrol')
  clone.statuses(75)
  result = clone.run('sweep_slurm.sbatch', 'sweep.txt', SLURM_ARRAY_TASK_ID='2', SLURM_JOB_ID='17')
  assert result.returncode == 0, result.stderr
  assert clone.trainings() == [['--distributed', *given]]
  assert clone.calls('scontrol') == [['scontrol', 'requeue', '17']]


@pytest.mark.parametrize(
  ('arguments', 'variables', 'message'),
  [
    ([], {}, 'the file of commands is missing'),
    (['none.txt'], {}, 'none.txt: no such file'),
    (['launch/common.sh'], {}, 'not in a Slurm array: expected sbatch --array=1 '),
    (['launch/common.sh'], {'SLURM_ARRAY_TASK_ID': '1'}, 'launch/common.sh, line 1: expected a command of'),
  ],
)
def test_a_task_that_has_no_line(clone, arguments, variables, message):
  result = clone.run('sweep_slurm.sbatch', *arguments, **variables)
  assert result.returncode == 2 and result.stderr.startswith(f'error: {message}')
  assert result.stderr.count('\n') == 1 and clone.calls() == []
