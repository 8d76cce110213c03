"""Which options of XLA hold for which step on a GPU; what they are worth, `benchmarks.cuda_graphs` measures on one."""

import os

import jax
import pytest

from moonshine_jax.cli import app
from moonshine_jax.runtime import gpu
from moonshine_jax.runtime.devices import Replicas

FAILURE = 'UNKNOWN: <unknown cudnn status: 5003>\nin external/xla/cuda_dnn.cc'


def compile_for_gpu(monkeypatch, *args, **fields):
  """Returns the options with which a GPU compiles a step."""
  monkeypatch.setattr(Replicas, 'platform', 'gpu')
  monkeypatch.setattr(jax, 'jit', lambda step, donate_argnums, compiler_options: compiler_options)
  return Replicas(jax.devices()[:1], *args).compile(lambda: None, **fields)


def test_convolutions_are_recorded_in_loops_alone(monkeypatch):
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  step, loop = (compile_for_gpu(monkeypatch, loop=loop) for loop in (False, True))
  assert step == gpu.COMPILER_OPTIONS and 'CONVOLUTION' not in step['xla_gpu_enable_command_buffer'].split(',')
  assert 'CONVOLUTION' in loop['xla_gpu_enable_command_buffer'].split(',')
  assert loop.items() >= {('xla_gpu_enable_latency_hiding_scheduler', True)}
  assert compile_for_gpu(monkeypatch, {'xla_a': 1}, loop=True) == {'xla_a': 1}


def test_what_the_user_names_is_as_the_user_says(monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--xla_gpu_enable_command_buffer=')
  assert gpu.RECORDED not in compile_for_gpu(monkeypatch, loop=True)


def test_cuda_loads_kernels_as_it_starts():
  assert os.environ['CUDA_MODULE_LOADING']  # EAGER, unless it was set before


def test_what_cudnn_cannot_run_is_one_line_that_says_what_to_try(capsys):
  assert gpu.advice_for(RuntimeError('RESOURCE_EXHAUSTED')) is None and gpu.advice_for(AssertionError()) is None

  def fail():
    raise jax.errors.JaxRuntimeError(FAILURE)

  with pytest.raises(SystemExit) as ended:
    app._guard(fail)
  told = capsys.readouterr().err
  assert ended.value.code == 2 and told.count('\n') == 1
  assert 'status: 5003>' in told and 'XLA_FLAGS=--xla_gpu_enable_command_buffer=FUSION,' in told
  assert 'CONVOLUTION' not in told
