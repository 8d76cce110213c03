"""The commands of README and of the guides: each parses with the real flags, and runs here or has its needs named."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from moonshine_jax.cli import app
from moonshine_jax.cli.command import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / 'README.md', ROOT / 'launch/README.md', *sorted((ROOT / 'docs').rglob('*.md'))]

# What is run here, in this order, in one folder; flags that make it small are added to each that begins so.
RUN = (
  'moonshine --help',
  'moonshine data digits',
  'moonshine train --config=digits --workdir=runs/teacher',
  "moonshine train --config=digits --workdir=runs/student --config.model.block='G(N/8)' "
  '--config.distill.teacher=runs/teacher --config.distill.alpha=0',
  'moonshine evaluate --workdir=runs/student',
  'moonshine report runs',
  'moonshine report runs --latency=latency.json --json=runs.json',
  'moonshine report runs.json',
  'moonshine attention --workdirs=runs/teacher,runs/student --images=0,1,2 --out=maps.png',
  'moonshine cost --workdir=runs/teacher --workdir=runs/student',
  "moonshine cost --network='G(N/8)' --layers",
  "moonshine sweep --config=digits --blocks='G(N/8),BG(2,M/8)' --seeds=3 --out=runs/sweep",
  'moonshine sweep --config=digits --config.model.network=mine.py:network --config.data.name=mine.py:data '
  "--blocks='G(N/8),BG(2,M/8)' --out=runs/sweep",
  'moonshine sweep --config=digits --out=runs/forms --regimes=KD --kd_forms=released,equation,hinton',
  'moonshine sweep --config=table3 --out=runs/table3 --seeds=1 --config.model.dtype=bfloat16 --workers=8',
  "moonshine sweep --config=table3 --out=runs/rehearsal --scale=0.05 --blocks='G(N/8),B(2)' --seeds=1",
  'moonshine sweep --config=table3 --out=/shared/runs/table3 --dry_run',
  'moonshine sweep --config=digits --vary=distill.temperature=2,4,8 --vary=distill.alpha=0.5,0.9 --out=runs/weights',
  'moonshine sweep --config=cifar100_crd --regimes= --seeds=5 --out=runs/crd --config.model.dtype=bfloat16',
  'moonshine zoo',
  'moonshine sweep --config=cifar10_20 --out=runs/zoo --config.distill.teacher=zoo:wrn-16-1-cifar10',
  'moonshine sweep --config=cifar10_20 --out=runs/small --seeds=1 --blocks=S '
  '--config.distill.teacher=zoo:wrn-16-1-cifar10',
  "moonshine sweep --config=cifar10_20 --out=runs/matching --seeds=1 --blocks='G(N/8)' --regimes=KD "
  '--config.distill.teacher=zoo:wrn-16-1-cifar10 --config.distill.temperature=1 --config.distill.ce_weight=0 '
  '--config.distill.alpha=1 --config.data.mixup=1.0 --config.optimizer.schedule=cosine --config.optimizer.nesterov',
  'moonshine zoo add runs/student --out=student.safetensors',
  'moonshine evaluate --workdir=student.safetensors',
)
SMALL = {
  'moonshine train': '--config.epochs=1 --config.model.depth=10 --config.data.train_split=train[:128] '
  '--config.data.test_split=test[:64] --config.optimizer.decay_epochs=() --config.steps_per_dispatch=2',
  'moonshine sweep': '--dry_run',
}

# What is not run here, by how it begins, and why.
NEEDS = {
  'moonshine train --config=cifar10 ': 'a download, and an accelerator for hours',
  'moonshine train --config=cifar100 ': 'the archive of CIFAR-100, and an accelerator for hours',
  'moonshine train --config=cifar10_20 ': 'CIFAR-10, and a CPU for an hour',
  'moonshine train --config=cifar10_forms ': 'CIFAR-10, and a CPU for half an hour',
  'moonshine evaluate --workdir=zoo:': 'CIFAR-10',
  'moonshine zoo add runs/teacher --out=moonshine_jax/zoo/': 'a clone; tests/workdir/test_sharing.py does the same',
  'moonshine train --config=imagenet ': 'data to be had by hand, and an accelerator for days',
  'moonshine train --config=digits --workdir=runs/mine ': 'minutes: it is the quick start on 16x16 pixels',
  'moonshine train --config=digits --workdir=runs/starts ': 'minutes; tests/training/test_blockwise.py runs it',
  'moonshine data folder:flowers ': 'a folder of images; tests/cli/test_data.py makes one',
  'moonshine report runs/crd': 'the runs of a sweep that takes an accelerator; tests/report/test_yardstick.py has such',
  'moonshine evaluate --workdir=runs/student/ema': 'a run with an average; tests/training/test_recipes.py has one',
  'moonshine search ': 'minutes; tests/search/test_run.py runs it',
  'moonshine train --config=digits --workdir=runs/searched ': 'the network of a search',
  'moonshine export ': 'the extras onnx and tflite; tests/export runs it',
  'moonshine import-torch ': 'PyTorch, and the data of CIFAR-10; tests/import_torch runs it',
  'moonshine cost': 'a minute or more, for all networks of a table, or large ones; tests/cli/test_cost.py runs it',
  '.venv/bin/python -m benchmarks.accelerator ': 'an accelerator; tests/benchmarks/test_accelerator.py has its plan',
  '.venv/bin/python -m benchmarks.gpu ': 'a GPU that is described; tests/benchmarks/test_gpu.py compiles for one',
  'tar -c': 'the results of that',
  'python -m pytest tests/training/test_interruptions.py': 'minutes; the tests run it with fewer kills',
  'pip install': 'the registry of packages',
  'launch/': 'a fresh clone and a registry; tests/launch runs the scripts with stubs',
  'sbatch ': 'Slurm',
  'teacher=$(sbatch ': 'Slurm',
  '.venv/bin/moonshine sweep ': 'nothing more than the same dry run, which is run above',
  'ZONE=': 'Google Cloud',
  'git archive ': 'Docker and a registry',
  'IMAGE=': 'Kubernetes',
  'BUCKET=': 'a cloud that SkyPilot reaches',
}

# Runs each of a list of commands in a fork of one process, which has imported what takes long.
RUNNER = """
import json, os, sys, traceback
import moonshine_jax.main, moonshine_jax.report.writer, moonshine_jax.launch.sweep, sklearn.datasets
import moonshine_jax.report.attention_maps, moonshine_jax.report.figures
from moonshine_jax.cli import app
from moonshine_jax.cli.command import COMMANDS
for words in json.load(sys.stdin):
  child = os.fork()
  if not child:
    sys.argv, status = words, 0
    try:
      app.main()
    except SystemExit as error:
      status = error.code or 0
    except BaseException:
      traceback.print_exc()
      status = 1
    sys.stdout.flush()
    os._exit(status)
  if status := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
    sys.exit(f'{words}: exit status {status}')
"""


def commands_of(page):
  """The commands of a page, each in one line."""
  for block in re.findall(r'^```sh\n(.*?)^```', page.read_text(), re.MULTILINE | re.DOTALL):
    for line in re.sub(r' *\\\n *', ' ', block).splitlines():
      if command := re.sub(r'(^| +)#.*', '', line):
        yield command


EVERY = sorted({(str(page.relative_to(ROOT)), command) for page in PAGES for command in commands_of(page)})


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder with what the commands name: the user's functions, and latencies."""
  folder = tmp_path_factory.mktemp('commands')
  (program,) = re.findall(r'```python\n(.*?)```', (ROOT / 'docs/guides/distil.md').read_text(), re.DOTALL)
  (folder / 'mine.py').write_text(program)
  (folder / 'latency.json').write_text((ROOT / 'results/cpu/inference.json').read_text())
  (folder / 'configs').symlink_to(ROOT / 'configs')
  return folder


def test_each_is_run_or_named_with_what_it_needs():
  commands = {command for _, command in EVERY}
  assert not [command for command in commands if command not in RUN and not command.startswith(tuple(NEEDS))]
  assert not [command for command in RUN if command not in commands]
  assert not [start for start in NEEDS if not any(command.startswith(start) for command in commands)]


@pytest.mark.parametrize(('page', 'command'), EVERY, ids=str)
def test_each_parses(page, command, folder, monkeypatch):
  monkeypatch.chdir(folder)
  monkeypatch.setattr(sys, 'argv', ['moonshine'])
  words = shlex.split(command.split(' > ')[0])
  script = next((word for word in words if word.startswith('launch/') and '/sweep_slurm' not in word), None)
  if words[0].endswith('moonshine') and words[1] in COMMANDS:
    name, arguments = app.split_command(words[1:])
    app._parse(COMMANDS[name], arguments)
  elif script:
    assert (ROOT / script.rstrip(';')).exists()
    flags = [word for word in words[words.index(script) + 1 :] if word.startswith('--')]
    if flags:
      app._parse(COMMANDS['train'], flags)


def test_the_quick_ones_run(folder):
  lines = []
  for command in RUN:
    small = next((flags for start, flags in SMALL.items() if command.startswith(start)), '')
    lines.append(shlex.split(command) + small.split() * ('--dry_run' not in command))
  result = subprocess.run(
    [sys.executable, '-c', RUNNER],
    input=json.dumps(lines),
    cwd=folder,
    env={**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_NUM_CPU_DEVICES': '1'},  # for which less is compiled
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr
  assert 'runs/student: test error ' in result.stdout and '| WRN-10-1           | G(N/8) |' in result.stdout
  assert (folder / 'maps.png').exists() and (folder / 'runs/report/index.html').exists()
