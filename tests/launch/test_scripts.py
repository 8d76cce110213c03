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

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*ROOT.glob('launch/*.sh'), *ROOT.glob('launch/*.sbatch'), ROOT / '.ci/run'])

# What a shell, YAML and Kubernetes would all like to have a word with.
FLAGS = [
  '--config=configs/cifar10.py',
  '--workdir=/runs/a b',
  "--config.distill.students=('block=G(N/8) alpha=0', )",
  '--config.data.name=$(HOME) $HOME "x" \\ * #',
]

# Of each launcher: the arguments before the flags, and the variables that it needs.
LAUNCHERS = {
  'train.sh': ([], {}),
  'slurm.sbatch': ([], {}),
  'tpu.sh': (['train'], {'ZONE': 'z', 'ACCELERATOR_TYPE': 'v6e-16', 'RUNTIME_VERSION': 'r', 'BUCKET': 'b'}),
  'kubernetes.sh': ([], {'IMAGE': 'registry/image', 'CLAIM': 'claim', 'PODS': '2', 'GPUS': '8'}),
  'skypilot.sh': ([], {'BUCKET': 'gs://b', 'NODES': '2'}),
}


def wait_for(condition):
  deadline = time.monotonic() + 10
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.02)


def shell_words(text):
  """The words that a shell makes of a text."""
  result = subprocess.run(['bash', '-c', f'printf "%s\\0" {text}'], capture_output=True, text=True, check=True)
  return result.stdout.split('\0')[:-1]


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


# A TPU slice ----------------------------------------------------------------------------------------------------------

# `describe` says the next of the states, `follow` exits with the next of the statuses; the last stays.
GCLOUD = r"""
next() { head -n 1 "$1"; [ "$(sed -n '$=' "$1")" = 1 ] || sed -i 1d "$1"; }
case "$*" in
  *describe*) next "$CALLS.states" ;;
  *" follow"*) exit "$(next "$CALLS.statuses")" ;;
esac"""


def steps_of(clone):
  """The commands that changed something, by their main word."""
  words = ('create', 'scp', 'tar', 'install', 'start', 'follow', 'delete')
  calls = [[word for each in call[4:] for word in each.split()] for call in clone.calls('gcloud')]
  found = [
    next((word for word in words if word in [call[3], *rest]), None)
    for call, rest in zip(clone.calls('gcloud'), calls, strict=True)
  ]
  return [word for word in found if word]


@pytest.mark.parametrize(
  ('states', 'statuses', 'expected_steps', 'expected'),
  [
    (['', 'WAITING_FOR_RESOURCES', 'ACTIVE'], [0], 'create scp tar install start follow delete', 0),
    (['ACTIVE'], [2], 'scp tar install start follow', 2),  # it is there already, and stays for the user to look at
    (['ACTIVE', 'ACTIVE', 'ACTIVE'], [255, 0], 'scp tar install start follow follow delete', 0),
    (
      ['ACTIVE', 'ACTIVE', 'SUSPENDED', 'SUSPENDED', '', 'ACTIVE'],
      [255, 0],
      'scp tar install start follow delete create scp tar install start follow delete',
      0,
    ),
    (['', 'SUSPENDED', 'ACTIVE'], [0], 'create delete create scp tar install start follow delete', 0),
    (['', 'FAILED'], [0], 'create', 2),
  ],
)
def test_a_slice_is_made_used_made_anew_and_deleted(clone, states, statuses, expected_steps, expected):
  clone.stub('gcloud', GCLOUD)
  clone.statuses(*statuses)
  Path(f'{clone.log}.states').write_text(''.join(f'{state}\n' for state in states))
  subprocess.run('git init --quiet && git add launch', shell=True, cwd=clone.root, check=True)
  result = clone.run('tpu.sh', 'train', *FLAGS, **LAUNCHERS['tpu.sh'][1])
  assert steps_of(clone) == expected_steps.split(), result.stderr
  assert result.returncode == expected
  assert all('--zone=z' in call for call in clone.calls('gcloud'))
  if expected_steps.startswith('create'):
    assert clone.calls('gcloud')[1][1:] == [
      'compute',
      'tpus',
      'queued-resources',
      'create',
      'moonshine',
      '--zone=z',
      '--node-id=moonshine',
      '--accelerator-type=v6e-16',
      '--runtime-version=r',
      '--spot',
    ]
  if 'start' in expected_steps:
    start = next(call for call in clone.calls('gcloud') if ' start ' in call[-1])
    assert start[-2] == '--worker=all'
    assert shell_words(start[-1].removeprefix('--command=')) == [
      'moonshine/launch/tpu_host.sh',
      'start',
      '--distributed',
      *FLAGS,
    ]


def test_a_host_starts_one_run_shows_its_log_and_ends_with_its_status(clone):
  clone.statuses('wait')
  assert clone.run('tpu_host.sh', 'follow').stderr == 'error: no run was started on this host\n'
  assert clone.run('tpu_host.sh', 'start', *FLAGS).returncode == 0
  wait_for(clone.trainings)
  assert 'a run is there already' in clone.run('tpu_host.sh', 'start', *FLAGS).stderr
  following = clone.start('tpu_host.sh', 'follow')
  time.sleep(0.2)
  assert clone.run('tpu_host.sh', 'stop').returncode == 0
  out, _ = following.communicate(timeout=10)
  assert (out, following.returncode) == ('the run says wait\n', 75)
  assert clone.trainings() == [FLAGS]
  clone.statuses(2)
  clone.run('tpu_host.sh', 'start', *FLAGS)
  assert clone.run('tpu_host.sh', 'follow').returncode == 2


def test_a_host_mounts_the_bucket_and_installs(clone):
  for tool in ('gcsfuse', 'sudo'):
    clone.stub(tool)
  clone.stub('mountpoint', '[ "$2" = /mnt/data ]')  # this one is there already
  clone.stub('python3', '[ "$4" != find ] || echo /uv/python')
  clone.stub(clone.root / 'launch/setup.sh', 'echo "PYTHON=$PYTHON"')
  result = clone.run('tpu_host.sh', 'install', 'b')
  assert result.returncode == 0 and result.stdout == 'PYTHON=/uv/python\n', result.stderr
  assert clone.calls('gcsfuse') == [
    ['gcsfuse', '--implicit-dirs', '--only-dir=runs', '--rename-dir-limit=100000', 'b', '/mnt/runs']
  ]
  assert clone.calls('setup.sh') == [['setup.sh', 'tpu']]


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
