"""The commands as a user runs them: a mistake is one line on stderr, exit status 2, and leaves nothing behind."""

import json
import subprocess
import sys

import pytest

from tests.helpers import run_processes


def run(*arguments):
  return subprocess.run([sys.executable, '-m', *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['moonshine_jax.main', '--config=configs/cifar10.py'], 'error: --workdir is missing'),
    (['moonshine_jax.main', '--workdir=@'], 'error: --config is missing'),
    (['moonshine_jax.main', '--config=configs/none.py', '--workdir=@'], 'error: --config: '),
    (
      ['moonshine_jax.main', '--config=configs/cifar10.py', '--workdir=@', '--config.model.depht=3'],
      'error: --config.model.depht: no such config field: depht Did you mean depth instead of depht?',
    ),
    (
      ['moonshine_jax.main', '--config=configs/cifar10.py', '--workdir=@', '--config.epochs=many'],
      'error: flag --config.epochs=many: invalid literal for int',
    ),
    (
      ['moonshine_jax.main', '--config=configs/cifar10.py', '--workdir=@', '--config.model.block=G(3)'],
      "error: config.model.block='G(3)': block G(3): 3 groups do not divide the 16 channels",
    ),
    (['moonshine_jax.main', '--config=configs/cifar10.py', '--workdir=@', 'G(2)'], "error: unexpected argument 'G(2)'"),
    (['moonshine_jax.evaluate', '--workdir=@'], 'error: @: no such folder'),
    (['moonshine_jax.report'], 'error: the argument DIR is missing'),
    (['launch.sweep', '--config=configs/digits.py', '--out=@', '--regimes=all'], "error: --regimes: 'all'"),
    (
      [
        'launch.sweep',
        '--config=configs/digits.py',
        '--out=@',
        '--blocks=B(2)',
        "--config.distill.students=('block=S',)",
      ],
      'error: --blocks: none of B(2) is among the students of the config',
    ),
  ],
)
def test_mistakes(arguments, message, tmp_path):
  workdir = str(tmp_path / 'run')
  module, *flags = [argument.replace('@', workdir) for argument in arguments]
  # Interpreters of their own train and sweep below.
  in_fork = module != 'moonshine_jax.report'
  result = run_processes.run_module(tmp_path, module, *flags) if in_fork else run(module, *flags)
  assert result.returncode == 2
  assert result.stderr.startswith(message.replace('@', workdir)), result.stderr
  assert result.stderr.count('\n') == 1 and result.stdout == ''
  assert not (tmp_path / 'run').exists()


def test_train_and_evaluate(tmp_path, monkeypatch):
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
  trained = run(
    'moonshine_jax.main',
    '--config=configs/digits.py',
    f'--workdir={tmp_path / "run"}',
    '--config.epochs=1',
    '--config.model.depth=10',
    '--config.data.train_split=train',
    '--config.optimizer.decay_epochs=()',
  )
  assert trained.returncode == 0, trained.stderr
  assert f'{tmp_path / "run"}: test error ' in trained.stdout and trained.stderr.startswith('epoch 1/1  loss ')
  assert trained.stderr.count('\n') == 1
  assert list((tmp_path / '.jax_cache').iterdir())  # for the next run beside this one
  evaluated = run('moonshine_jax.evaluate', f'--workdir={tmp_path / "run"}', '--json')
  result = json.loads(evaluated.stdout)
  assert f'test error {result["test_error"]:.2f}%' in trained.stdout
  assert result['examples'] == 500 and result['parameters'] == 78_042 and result['multiply_adds'] == 763_520
