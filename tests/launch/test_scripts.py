"""The launch scripts, with stubs for everything that they call: what they run, in which order, and when again."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.helpers.launchers import FLAGS, LAUNCHERS
from tests.helpers.waiting import wait_for

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*ROOT.glob('launch/*.sh'), *ROOT.glob('launch/*.sbatch'), ROOT / '.ci/run'])


def test_shellcheck_finds_nothing():
  subprocess.run([Path(sys.executable).parent / 'shellcheck', '--external-sources', *SCRIPTS], cwd=ROOT, check=True)
  for script in SCRIPTS:
    subprocess.run(['bash', '-n', script], check=True)


@pytest.mark.parametrize('script', LAUNCHERS)
def test_a_dry_run_prints_the_command_and_runs_nothing(clone, script):
  before, variables = LAUNCHERS[script]
  for tool in ('gcloud', 'kubectl', 'sky', 'srun', 'scontrol', 'sudo'):
    clone.stub(tool)
  result = clone.run(script, *before, *FLAGS, DRY_RUN='1', **variables)
  assert result.returncode == 0, result.stderr
  assert [call for call in clone.calls() if call[1:3] != ['-m', 'pip']] == []
  for flag in FLAGS:
    assert re.search('.*'.join(re.findall(r'[\w./=-]+', flag)), result.stdout), flag


@pytest.mark.parametrize(
  ('script', 'tool'), [('tpu.sh', 'gcloud'), ('kubernetes.sh', 'kubectl'), ('skypilot.sh', 'sky')]
)
def test_what_is_missing_is_named_in_one_line(clone, script, tool):
  before, variables = LAUNCHERS[script]
  cases = [(FLAGS, variables, f'error: {tool} is not installed: ')]
  cases += [
    (FLAGS, variables | {name: ''}, f'error: the variable {name} is missing: set it as in {name}=')
    for name in ('ZONE', 'IMAGE', 'CLAIM')
    if name in variables
  ]
  cases += [(FLAGS[1:], variables, 'error: --config is missing'), (FLAGS[:1], variables, 'error: --workdir is missing')]
  for i, (flags, values, message) in enumerate(cases):
    result = clone.run(script, *before, *flags, **values)
    assert result.returncode == 2 and result.stdout == ''
    assert result.stderr.startswith(message) and result.stderr.count('\n') == 1
    if i == 0:
      clone.stub(tool)
  assert clone.calls() == []


@pytest.mark.parametrize('script', ['train.sh', 'slurm.sbatch'])
def test_a_number_of_tries_that_is_none(clone, script):
  result = clone.run(script, MAX_FAILURES='many')
  assert (result.returncode, result.stderr) == (2, 'error: MAX_FAILURES=many: expected an integer of at least 1\n')


# On one machine -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('statuses', 'runs', 'expected'),
  [
    ([0], 1, 0),
    ([2, 0], 1, 2),
    ([75, 75, 0], 3, 0),
    ([1, 0], 2, 0),
    ([1, 139, 1, 0], 3, 1),
    ([1, 1, 75, 1, 1, 0], 6, 0),
    ([75, 2, 0], 2, 2),
  ],
)
def test_a_run_is_started_again_as_its_status_says(clone, statuses, runs, expected):
  clone.statuses(*statuses)
  result = clone.run('train.sh', *FLAGS)
  assert result.returncode == expected, result.stderr
  assert clone.trainings() == [FLAGS] * runs


@pytest.mark.parametrize(
  'send',
  [lambda pid: os.kill(pid, signal.SIGTERM), lambda pid: os.killpg(pid, signal.SIGINT)],
  ids=['SIGTERM', 'Ctrl-C'],
)
def test_a_signal_reaches_the_run_once_and_ends_both(clone, send):
  clone.statuses('wait', 0)
  process = clone.start('train.sh', *FLAGS)
  wait_for(clone.trainings)
  time.sleep(0.2)  # until the stub has its traps
  send(process.pid)
  process.communicate(timeout=10)
  assert process.returncode == 75
  assert clone.signals() == ['TERM'] and len(clone.trainings()) == 1


def test_it_installs_where_the_package_is_not(clone):
  clone.stub(clone.root / '.venv/bin/python', '[ "$2" != pip ]')
  clone.stub(clone.root / 'launch/setup.sh')
  clone.stub('nvidia-smi')
  assert clone.run('train.sh', *FLAGS).returncode == 0
  assert clone.calls('setup.sh', 'nvidia-smi') == [['setup.sh', 'cuda']]
  assert clone.run('train.sh', *FLAGS, EXTRAS='').returncode == 0
  assert clone.calls('setup.sh')[1:] == [['setup.sh', '']]


# Slurm ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('statuses', 'requeued', 'expected'),
  [([0], False, 0), ([75], True, 0), ([2], False, 2), ([1, 0], False, 0), ([1, 1, 9], False, 9), ([1, 75], True, 0)],
)
def test_slurm_requeues_a_run_that_saved(clone, statuses, requeued, expected):
  clone.stub('srun', 'exec "${@:2}"')
  clone.stub('scontrol')
  clone.statuses(*statuses)
  result = clone.run('slurm.sbatch', *FLAGS, SLURM_JOB_ID='17')
  assert result.returncode == expected, result.stderr
  assert clone.calls('scontrol') == ([['scontrol', 'requeue', '17']] if requeued else [])
  assert clone.trainings() == [['--distributed', *FLAGS]] * len(statuses)


def test_slurm_outside_of_a_job_or_a_clone(clone, tmp_path):
  assert clone.run('slurm.sbatch', *FLAGS).stderr.startswith('error: not in a Slurm job: expected sbatch launch/')
  result = clone.run('slurm.sbatch', *FLAGS, SLURM_JOB_ID='17', SLURM_SUBMIT_DIR=str(tmp_path))
  assert result.returncode == 2 and 'is not the root of the repository' in result.stderr


# Kubernetes and SkyPilot ----------------------------------------------------------------------------------------------


def test_the_manifest_that_kubectl_gets(clone):
  clone.stub('kubectl', 'cat > "$CALLS.manifest"')
  result = clone.run('kubernetes.sh', *FLAGS, **LAUNCHERS['kubernetes.sh'][1])
  assert result.returncode == 0 and clone.calls() == [['kubectl', 'apply', '--filename=-']]
  service, job = yaml.safe_load_all(Path(f'{clone.log}.manifest').read_text())
  assert service['spec']['clusterIP'] == 'None' and service['spec']['publishNotReadyAddresses'] is True
  assert service['spec']['selector'] == {'job-name': job['metadata']['name']}
  spec, pod = job['spec'], job['spec']['template']['spec']
  assert (spec['completionMode'], spec['completions'], spec['parallelism']) == ('Indexed', 2, 2)
  assert (pod['restartPolicy'], pod['subdomain']) == ('Never', service['metadata']['name'])
  (container,) = pod['containers']
  assert container['command'] == ['python', '-m', 'moonshine_jax.main']
  assert container['args'] == [
    '--distributed',
    '--coordinator_address=moonshine-0.moonshine:8476',
    '--num_processes=2',
    '--process_id=$(JOB_COMPLETION_INDEX)',
    *[flag.replace('$', '$$') for flag in FLAGS],
  ]
  assert container['resources']['limits'] == {'nvidia.com/gpu': '8'}
  rules = [rule for rule in spec['podFailurePolicy']['rules'] if 'onExitCodes' in rule]
  assert {(*rule['onExitCodes']['values'],): rule['action'] for rule in rules} == {(2,): 'FailJob', (75,): 'Ignore'}
  assert {rule['onExitCodes']['containerName'] for rule in rules} == {container['name']}
  assert spec['backoffLimit'] > 0


def test_skypilot_gives_every_node_the_same_command(clone):
  clone.stub('sky')
  assert clone.run('skypilot.sh', *FLAGS, **LAUNCHERS['skypilot.sh'][1]).returncode == 0
  (call,) = clone.calls('sky')
  assert call[1:3] == ['jobs', 'launch'] and call[-1] == 'launch/skypilot.yaml'
  assert {'--num-nodes=2', '--env=BUCKET=gs://b'} <= set(call)
  quoted = next(each.removeprefix('--env=FLAGS=') for each in call if each.startswith('--env=FLAGS='))
  task = yaml.safe_load((ROOT / 'launch/skypilot.yaml').read_text())
  assert task['file_mounts']['/bucket'] == {'source': '${BUCKET}', 'mode': 'MOUNT'}
  assert task['resources']['job_recovery']['recover_on_exit_codes'] == [75]
  clone.statuses(0)
  node = {
    'FLAGS': quoted,
    'SKYPILOT_NODE_IPS': '10.0.0.1\n10.0.0.2',
    'SKYPILOT_NUM_NODES': '2',
    'SKYPILOT_NODE_RANK': '1',
  }
  subprocess.run(['bash', '-c', task['run']], env=clone.env | node, cwd=clone.root, check=True)
  assert clone.trainings() == [
    ['--distributed', '--coordinator_address=10.0.0.1:8476', '--num_processes=2', '--process_id=1', *FLAGS]
  ]
