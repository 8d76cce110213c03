import subprocess
import sys

import pytest

from moonshine_jax.workdir.tensorboard import EventFile


def test_torch_is_not_imported_and_can_be_after(tmp_path):
  (tmp_path / 'torch.py').write_text('print("imported")\n')
  lines = 'import moonshine_jax.workdir.tensorboard\nprint("then")\nimport torch'
  done = subprocess.run(
    [sys.executable, '-c', f'import sys\nsys.path.insert(0, {str(tmp_path)!r})\n{lines}'],
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.split() == ['then', 'imported']


def test_torch_that_is_there_stays(tmp_path):
  (tmp_path / 'torch.py').write_text('Tensor = object\n')
  lines = 'import torch\nimport moonshine_jax.workdir.tensorboard\nassert sys.modules["torch"] is torch'
  subprocess.run([sys.executable, '-c', f'import sys\nsys.path.insert(0, {str(tmp_path)!r})\n{lines}'], check=True)


def test_what_the_disk_does_not_take_is_told_at_once(tmp_path):
  with pytest.raises(OSError):
    EventFile(tmp_path / 'missing', first_step=1).write(1, {'loss': 1.0})
