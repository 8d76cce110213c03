"""A disk that takes no more, and a process that may open no more files: what Python and the libraries print of it."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from moonshine_jax import config as config_lib
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError, tell
from moonshine_jax.workdir.checkpoint import Checkpoints

workdir, limit, value = sys.argv[1], getattr(resource, sys.argv[2]), int(sys.argv[3])
variables = {str(i): np.random.default_rng(i).uniform(size=(100, 100)).astype(np.float32) for i in range(60)}
trees = {'variables': variables, 'progress': {'step': np.zeros((), np.int32)}}
checkpoints = Checkpoints(workdir, create=True)
resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))
try:
  checkpoints.save(1, trees, config_lib.create_config(), Facts((8, 8, 1), 10, (0.0,), (1.0,)), {})
  checkpoints.wait()
except UserError as error:
  message = str(error)
checkpoints.close()
tell(message)
"""


@pytest.mark.parametrize(
  ('limit', 'value', 'reason'),
  [('RLIMIT_FSIZE', 100_000, 'File too large'), ('RLIMIT_NOFILE', 14, 'Too many open files')],
)
def test_a_checkpoint_that_cannot_be_written_is_one_line(tmp_path, limit, value, reason):
  command = [sys.executable, '-c', PROGRAM, str(tmp_path), limit, str(value)]
  environment = {**os.environ, 'JAX_ENABLE_COMPILATION_CACHE': 'false'}  # which JAX could not write either
  process = subprocess.run(command, capture_output=True, text=True, env=environment)
  assert (process.stdout, process.stderr) == (
    '',
    f'error: {tmp_path}/checkpoints: a checkpoint cannot be written: {reason}; there is no checkpoint yet\n',
  )
