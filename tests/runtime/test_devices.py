import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moonshine_jax.runtime.cpu import available_cores
from moonshine_jax.runtime.devices import Replicas, mean, replica_share, total


@pytest.fixture(params=[1, 4])
def replicas(request):
  if len(jax.devices()) < request.param:
    pytest.skip(f'needs {request.param} devices')
  return Replicas(jax.devices()[: request.param])


def test_one_call_reduces_over_all_replicas(replicas):
  def step(state, batch):
    return (
      state + 1,
      total(batch['x'].sum(), replicas.axis_name),
      mean(batch['x'].mean(), replicas.axis_name),
    )

  x = np.arange(8.0, dtype=np.float32)
  results = replicas.compile(step, donate_argnums=(0,))(replicas.replicate(jnp.int32(5)), replicas.shard({'x': x}))
  assert tuple(replicas.fetch(results)) == (6, 28.0, 3.5)


def test_shares_of_a_draw_are_those_of_the_batch(replicas):
  whole = np.arange(8)

  def step(batch):
    return total(
      jnp.abs(replica_share(jnp.asarray(whole), len(batch), replicas.axis_name) - batch).sum(), replicas.axis_name
    )

  assert replicas.fetch(replicas.compile(step)(replicas.shard(whole))) == 0


def test_fetched_arrays_outlive_a_donation(replicas):
  state = replicas.replicate({'x': np.arange(3.0)})
  before = replicas.fetch(state)
  replicas.compile(lambda state: jax.tree.map(lambda x: x * 0, state), donate_argnums=(0,))(state)
  np.testing.assert_array_equal(before['x'], [0, 1, 2])


def test_round_up(replicas):
  assert [replicas.round_up(size) for size in (4, 5)] == ([4, 5] if len(replicas) == 1 else [4, 8])


@pytest.mark.parametrize(
  ('environment', 'batch_size', 'devices'),
  [
    ({}, 7 * available_cores(), available_cores()),
    ({}, 1, 1),
    ({'JAX_NUM_CPU_DEVICES': '3'}, 4, 3),
    ({'XLA_FLAGS': '--xla_force_host_platform_device_count=3'}, 4, 3),
  ],
)
def test_a_cpu_is_as_many_devices_as_cores_that_divide_the_batch(environment, batch_size, devices):
  code = (
    f'from moonshine_jax.runtime import devices; devices.use_all_cores({batch_size}); print(len(devices.Replicas()))'
  )
  unset = {name: value for name, value in os.environ.items() if name not in ('XLA_FLAGS', 'JAX_NUM_CPU_DEVICES')}
  result = subprocess.run(
    [sys.executable, '-c', code],
    env=unset | {'JAX_PLATFORMS': 'cpu'} | environment,
    capture_output=True,
    text=True,
    check=True,
  )
  assert int(result.stdout) == devices


@pytest.mark.parametrize(
  ('variable', 'value', 'message'),
  [
    (
      'JAX_PLATFORMS',
      'cuda',
      'no such device is found (no plugin): installed: cpu; for an NVIDIA GPU: pip install ',
    ),
    ('JAX_PLATFORMS', 'cdua', "no such device is found (Unable to initialize backend 'cdua'"),
    ('JAX_NUM_CPU_DEVICES', '0', 'expected at least 1, the devices into which a CPU is divided'),
    ('JAX_NUM_CPU_DEVICES', 'x', 'JAX refuses the environment'),
    ('JAX_ENABLE_X64', 'maybe', 'JAX refuses the environment'),
  ],
)
def test_an_environment_without_such_devices_is_one_line(variable, value, message, tmp_path):
  code = "from moonshine_jax.cli import app; app.run('train', ['--config=digits', '--workdir=none'])"
  environment = {name: text for name, text in os.environ.items() if name != 'XLA_FLAGS'} | {variable: value}
  run = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120
  )
  assert run.returncode == 2 and run.stderr.startswith(f'error: {variable}={value}: {message}')
  assert run.stderr.count('\n') == 1 and not list(tmp_path.glob('none*'))


def test_any_command_tells_of_a_device_that_is_not_found():
  code = 'import jax; from moonshine_jax.cli import app; app._guard(lambda: jax.numpy.zeros(3))'
  run = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, env=os.environ | {'JAX_PLATFORMS': 'tpu'}
  )
  assert run.returncode == 2 and run.stderr.startswith('error: JAX_PLATFORMS=tpu') and run.stderr.count('\n') == 1
