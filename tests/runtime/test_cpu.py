"""The CPU, on Linux and where Linux's ways to ask for it are missing, as on macOS."""

import builtins
import io
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moonshine_jax.runtime import cpu
from moonshine_jax.runtime.devices import Replicas


@pytest.fixture
def macos(monkeypatch):
  """Hides what Linux alone has: the set of cores that a process is bound to, and the files in /proc."""
  monkeypatch.delattr(os, 'sched_getaffinity', raising=False)
  real_open = builtins.open

  def open_outside_proc(path, *args, **kwargs):
    if str(path).startswith('/proc/'):
      raise FileNotFoundError(path)
    return real_open(path, *args, **kwargs)

  monkeypatch.setattr(builtins, 'open', open_outside_proc)


@pytest.mark.skipif(not hasattr(os, 'sched_setaffinity'), reason='macOS binds no process to cores')
def test_cores_are_those_that_the_process_is_bound_to():
  program = (
    'import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});'
    'from moonshine_jax.runtime import cpu; print(cpu.available_cores())'
  )
  result = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
  assert result.stdout == '1\n'


def test_cores_without_linux(macos, monkeypatch):
  monkeypatch.setattr(os, 'cpu_count', lambda: 12)
  assert cpu.available_cores() == 12
  monkeypatch.setattr(os, 'cpu_count', lambda: None)  # Python's word for a number that it cannot tell
  assert cpu.available_cores() == 1


def test_the_processor_without_linux(macos, monkeypatch):
  monkeypatch.setattr(platform, 'processor', lambda: 'arm')
  assert cpu.processor_name() == 'arm'
  monkeypatch.setattr(platform, 'processor', lambda: '')
  monkeypatch.setattr(platform, 'machine', lambda: 'arm64')
  assert cpu.processor_name() == 'arm64'


def test_the_processor_has_a_name():
  assert cpu.processor_name()


LINUX = """processor\t: 0
{}\t\t: {}
processor\t: 1
"""
MACOS = """hw.optional.floatingpoint: 1
hw.optional.neon: 1
hw.optional.arm.FEAT_BF16: 1
hw.optional.arm.FEAT_SME: 0
hw.optional.arm.FEAT_DotProd: 1
hw.optional.avx2_0: 0
"""


@pytest.mark.parametrize(
  ('field', 'flags', 'expected', 'widest'),
  [
    ('flags', 'fpu sse2 sse4_2 fma avx avx2 aes sme smep', ['avx', 'avx2', 'fma', 'sse4_2'], 'AVX2'),
    ('flags', 'avx2 avx512f avx512_bf16 vme', ['avx2', 'avx512_bf16', 'avx512f'], 'AVX-512'),
    ('flags', 'amx_tile amx_bf16 avx512f avx2', ['amx_bf16', 'amx_tile', 'avx2', 'avx512f'], 'AMX'),
    ('Features', 'fp asimd crc32 sve i8mm', ['asimd', 'i8mm', 'sve'], ''),
    ('model', 'avx2', [], ''),  # neither field is there
  ],
)
def test_the_instruction_sets_that_linux_names(monkeypatch, field, flags, expected, widest):
  monkeypatch.setattr(builtins, 'open', lambda path: io.StringIO(LINUX.format(field, flags)))
  assert cpu.instruction_sets() == expected
  assert cpu.widest_instruction_set(expected) == widest


def test_the_instruction_sets_without_linux(macos, monkeypatch):
  monkeypatch.setattr(cpu, '_sysctl', lambda name: MACOS if name == 'hw.optional' else '')
  assert cpu.instruction_sets() == ['bf16', 'dotprod', 'neon']
  monkeypatch.setattr(cpu, '_sysctl', lambda name: '')
  assert cpu.instruction_sets() == []


def test_it_needs_no_jax():
  program = "import sys; from moonshine_jax.runtime import cpu; print('jax' in sys.modules)"
  result = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
  assert result.stdout == 'False\n'


def test_no_other_module_asks_linux_alone():
  root = Path(cpu.__file__).parents[2]
  modules = [path for folder in ('moonshine_jax', 'configs', 'launch') for path in (root / folder).rglob('*.py')]
  asking = [path for path in modules if re.search(r'sched_getaffinity|/proc/', path.read_text())]
  assert asking == [Path(cpu.__file__)]


# What ends a network, or stands in one, and takes many numbers to one.
REDUCTIONS = {
  'average pool': lambda x: nn.avg_pool(jax.nn.relu(x), (8, 8), (8, 8)),
  'maximum pool': lambda x: nn.max_pool(x, (2, 2), (2, 2)).mean((1, 2)),
  'minimum pool': lambda x: nn.pooling.pool(x, jnp.inf, jax.lax.min, (8, 8), (8, 8), 'VALID'),
  'mean': lambda x: jax.nn.relu(x).mean((1, 2)),
  'sum': lambda x: jnp.maximum(x, 0).sum((1, 2)),
  'maximum': lambda x: x.max((1, 2)),
  'minimum': lambda x: jnp.minimum(x, 6).min((1, 2)),
  'variance': lambda x: jax.nn.relu(x).var((1, 2)),
  'norm': lambda x: jnp.sqrt(jnp.square(jax.nn.relu(x)).sum((1, 2))),
  'ReLU6': lambda x: jax.nn.relu6(x).mean((1, 2)),
  'softmax': lambda x: jax.nn.softmax(jax.nn.relu(x).mean((1, 2))),
  'dense layer': lambda x: jax.nn.relu(x).reshape(len(x), -1) @ jnp.ones((x[0].size, 4)),
}


@pytest.mark.parametrize('devices', [1, 2])
def test_no_reduction_makes_a_number_of_what_is_none(devices):
  replicas = Replicas(jax.devices()[:devices])
  if replicas.devices[0].platform != 'cpu':
    pytest.skip('of XLA for CPUs')
  one_pixel = np.random.default_rng(0).normal(size=(8, 8, 8, 64)).astype(np.float32)
  one_pixel[:, 3, 4] = np.nan
  compiled = replicas.compile(lambda x: {name: reduce(x) for name, reduce in REDUCTIONS.items()})
  for images in (np.full_like(one_pixel, np.nan), one_pixel):
    results = replicas.fetch(compiled(replicas.shard(images)))
    assert [name for name, result in results.items() if not np.isnan(result).any(-1).all()] == []
