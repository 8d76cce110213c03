"""Which options of XLA hold for which step on a GPU; what they are worth, `benchmarks.cuda_graphs` measures on one."""

import os
import subprocess
import sys

import jax
import pytest

from moonshine_jax.cli import app
from moonshine_jax.runtime import gpu
from moonshine_jax.runtime.devices import Replicas


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
  """The package alone sees to it, before JAX is imported."""
  check = "import moonshine_jax, os, sys; print(os.environ['CUDA_MODULE_LOADING'], 'jax' in sys.modules)"
  for given, seen in (({}, 'EAGER False\n'), ({'CUDA_MODULE_LOADING': 'LAZY'}, 'LAZY False\n')):
    environment = {name: value for name, value in os.environ.items() if name != 'CUDA_MODULE_LOADING'} | given
    assert subprocess.check_output([sys.executable, '-c', check], env=environment, text=True) == seen


@pytest.mark.parametrize(
  'failure', ['UNKNOWN: <unknown cudnn status: 5003>\nin cuda_dnn.cc', 'CUDNN_STATUS_EXECUTION_FAILED']
)
def test_an_error_of_cudnn_says_what_to_try(failure, monkeypatch):
  monkeypatch.delenv('XLA_FLAGS', raising=False)

  def fail():
    raise jax.errors.JaxRuntimeError(failure)

  with pytest.raises(jax.errors.JaxRuntimeError) as raised:
    app._guard(fail)
  assert 'XLA_FLAGS=--xla_gpu_enable_command_buffer= ' in raised.value.__notes__[0]
  monkeypatch.setenv('XLA_FLAGS', '--xla_gpu_enable_command_buffer=')
  assert gpu.advice_for(raised.value) is None  # it has been tried


def test_other_errors_are_as_they_are():
  assert gpu.advice_for(RuntimeError('RESOURCE_EXHAUSTED')) is None and gpu.advice_for(AssertionError()) is None
