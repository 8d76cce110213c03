"""Which options a step is compiled with in each way, and the ratios; never how fast they are: that needs a GPU."""

import json

import jax
import pytest

from benchmarks import command, cuda_graphs, train_step
from moonshine_jax.runtime import gpu

NETWORK = ['--networks', 'WRN-10-1 S', '--image_size=8', '--batch=8', '--repeats=1']


def test_every_way_takes_turns(tmp_path, monkeypatch, capsys):
  compiled = []

  def make(architecture, flags, devices, options):
    compiled.append((devices, options))
    if 'WHILE' in options['xla_gpu_enable_command_buffer']:
      raise jax.errors.JaxRuntimeError('INTERNAL: no such graph\nand more')
    return lambda: None

  monkeypatch.delenv('XLA_FLAGS', raising=False)
  monkeypatch.setattr(train_step, 'make_our_train_step', make)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  path = tmp_path / 'rows.json'
  with pytest.raises(SystemExit, match='^error: WRN-10-1 S, loop: INTERNAL: no such graph$'):
    cuda_graphs.main([*NETWORK, f'--json={path}'])
  written = json.loads(path.read_text())
  (row,) = written['rows']
  assert list(row['ratios']) == ['none', 'between', 'convolutions', 'concurrent']
  assert row['ratios']['between'] == 1
  assert written['steps_of_a_sample'] == command.CALLS_PER_SAMPLE['gpu']
  assert [devices for devices, _ in compiled] == [1] * 5
  assert {options['xla_gpu_enable_latency_hiding_scheduler'] for _, options in compiled} == {True}  # training's others
  assert written['graphs']['between'] == gpu.COMPILER_OPTIONS and written['graphs']['concurrent'] == gpu.LOOP_OPTIONS
  assert written['graphs']['none']['xla_gpu_enable_command_buffer'] == ''
  assert 'convolutions' in capsys.readouterr().out


def test_it_needs_a_gpu(capsys):
  with pytest.raises(SystemExit) as ended:
    cuda_graphs.main(NETWORK)
  assert ended.value.code == 2
  assert capsys.readouterr().err.endswith(': cpu: expected a GPU\n')


def test_flags_of_the_environment_would_hold_for_all_ways(monkeypatch, capsys):
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  monkeypatch.setenv('XLA_FLAGS', '--xla_gpu_enable_command_buffer=FUSION')
  with pytest.raises(SystemExit):
    cuda_graphs.main(NETWORK)
  assert 'XLA_FLAGS names xla_gpu_enable_command_buffer: expected nothing' in capsys.readouterr().err
