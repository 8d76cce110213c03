"""A clone for the launch scripts, with stubs in place of whatever they would call."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / 'launch'

# All that the scripts may use of a machine besides what they ask for by name: no real gcloud, sbatch or pip.
TOOLS = 'bash cat chmod dirname env git gzip head id mkdir nohup pkill rm sed sh sleep tail tar touch'

RECORD = r"""#!/usr/bin/env bash
{ printf '%s\x1f' "${0##*/}" "$@"; echo; } >> "$CALLS"
"""


class Clone:
  """A clone whose scripts run with nothing on PATH but `TOOLS` and stubs that record how they are called."""

  def __init__(self, folder: Path):
    self.root, self.bin, self.log = folder / 'clone', folder / 'bin', folder / 'calls'
    shutil.copytree(LAUNCH, self.root / 'launch', ignore=shutil.ignore_patterns('__pycache__'))
    self.bin.mkdir()
    for tool in TOOLS.split():
      (self.bin / tool).symlink_to(shutil.which(tool))
    (self.bin / 'python3').symlink_to(sys.executable)
    self.env = {
      'PATH': str(self.bin),
      'HOME': str(folder),
      'CALLS': str(self.log),
      'RETRY_SECONDS': '0',
      'POLL_SECONDS': '0',
      'TMPDIR': str(folder),
    }
    # The interpreter that trains: pip finds the package; a run takes the next of `statuses`, or waits for SIGTERM.
    self.stub(
      self.root / '.venv/bin/python',
      r'''
      [ "$2" = pip ] && exit
      trap 'echo TERM >> "$CALLS.signals"; exit 75' TERM
      trap 'echo INT >> "$CALLS.signals"; exit 1' INT
      status=$(head -n 1 "$CALLS.statuses")
      sed -i 1d "$CALLS.statuses"
      echo "the run says $status"
      [ "$status" != wait ] || while true; do sleep 0.05; done
      exit "$status"''',
    )

  def stub(self, path: str | Path, body: str = '') -> None:
    """A command that records its arguments; one without a folder is on PATH."""
    path = self.bin / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(RECORD + body)
    path.chmod(0o755)

  def statuses(self, *statuses: int | str) -> None:
    """What the training runs to come will exit with, or 'wait' for one that ends by a signal."""
    Path(f'{self.log}.statuses').write_text(''.join(f'{status}\n' for status in statuses))

  def start(self, script: str, *arguments: str, **variables: str) -> subprocess.Popen:
    # Where the tests run in the background, SIGINT is ignored, and bash never traps what was ignored when it began.
    return subprocess.Popen(
      [self.root / 'launch' / script, *arguments],
      env=self.env | variables,
      cwd=self.root,
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      start_new_session=True,
      preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - it waits for no thread
    )

  def run(self, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    process = self.start(script, *arguments, **variables)
    out, err = process.communicate(timeout=20)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)

  def calls(self, *names: str) -> list[list[str]]:
    """How the stubs, or those of these names, were called, in order."""
    lines = self.log.read_text().splitlines() if self.log.exists() else []
    calls = [line.split('\x1f')[:-1] for line in lines]
    return [call for call in calls if not names or call[0] in names]

  def trainings(self) -> list[list[str]]:
    """The arguments of all training runs."""
    return [call[3:] for call in self.calls('python') if call[1:3] == ['-m', 'moonshine_jax.main']]

  def signals(self) -> list[str]:
    path = Path(f'{self.log}.signals')
    return path.read_text().split() if path.exists() else []


@pytest.fixture
def clone(tmp_path):
  return Clone(tmp_path)
