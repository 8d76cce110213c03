"""The scripts for a TPU slice: what they ask of gcloud, and what a host does."""

import subprocess
import time
from pathlib import Path

import pytest

from tests.helpers.launchers import FLAGS, LAUNCHERS, shell_words
from tests.helpers.waiting import wait_for

# `describe` says the next of the states, `follow` exits with the next of the statuses; the last stays. The first of
# `install` has no connection where the test says so.
GCLOUD = r"""
next() { head -n 1 "$1"; [ "$(sed -n '$=' "$1")" = 1 ] || sed -i 1d "$1"; }
case "$*" in
  *describe*) next "$CALLS.states" ;;
  *" follow"*) exit "$(next "$CALLS.statuses")" ;;
  *" install "*) if [ -e "$CALLS.lost" ]; then rm "$CALLS.lost"; exit 255; fi ;;
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


def test_a_connection_that_is_lost_while_a_host_installs(clone):
  clone.stub('gcloud', GCLOUD)
  clone.statuses(0)
  Path(f'{clone.log}.states').write_text('ACTIVE\n')
  Path(f'{clone.log}.lost').touch()
  subprocess.run('git init --quiet && git add launch', shell=True, cwd=clone.root, check=True)
  result = clone.run('tpu.sh', 'train', *FLAGS, **LAUNCHERS['tpu.sh'][1])
  assert ' '.join(steps_of(clone)) == 'scp tar install scp tar install start follow delete', result.stderr
  assert result.returncode == 0


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
