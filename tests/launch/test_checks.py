"""What checks a change: launch/test.sh, and with it pre-commit and the workflow of GitHub."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_pre_commit_has_the_checks_of_the_test_command():
  lines = (ROOT / 'launch/test.sh').read_text().splitlines()
  checks = [line for line in lines if line.startswith('.venv/bin/') and ' pytest ' not in line]
  (repository,) = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos']
  assert [hook['entry'] for hook in repository['hooks']] == checks
  assert all(hook['language'] == 'system' and not hook['pass_filenames'] for hook in repository['hooks'])


def test_the_workflow_runs_the_test_command_on_every_python_that_the_package_names():
  jobs = yaml.safe_load((ROOT / '.github/workflows/tests.yml').read_text())['jobs']
  matrix = jobs['tests']['strategy']['matrix']['include']
  classifiers = re.findall(r'Programming Language :: Python :: (3\.\d+)', (ROOT / 'setup.py').read_text())
  assert [job['python'] for job in matrix] == classifiers
  assert 'launch/test.sh' in [step.get('run') for step in jobs['tests']['steps']]
  assert 'launch/quickstart.sh' in [step.get('run') for step in jobs['quickstart']['steps']]
  for script in ('launch/test.sh', 'launch/quickstart.sh'):
    assert (ROOT / script).stat().st_mode & 0o111
