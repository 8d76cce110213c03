"""The compiler for CUDA needs no GPU; where it is not installed, only the command's own checks are tested.

  launch/setup.sh test,gpu-aot && JAX_PLATFORMS=cpu .venv/bin/python -m pytest tests/benchmarks/test_gpu.py

Without JAX_PLATFORMS JAX would look for a GPU first, find none, and forget the compiler.
"""

import argparse
import importlib.util
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import gpu
from benchmarks.lowering import DescribedReplicas
from moonshine_jax.runtime.devices import total

needs_compiler = pytest.mark.skipif(
  importlib.util.find_spec('jax_cuda13_plugin') is None or os.environ.get('JAX_PLATFORMS') != 'cpu',
  reason='needs the extra gpu-aot, and JAX_PLATFORMS=cpu',
)
H100 = str(Path(gpu.__file__).with_name('h100.txt'))


def error_line(capsys, *arguments):
  with pytest.raises(SystemExit) as end:
    gpu.main(list(arguments))
  assert end.value.code == 2
  return capsys.readouterr().err.splitlines()[-1]


def test_a_batch_that_the_devices_do_not_divide_is_refused(capsys):
  line = error_line(capsys, '--batch=129')
  assert line.endswith('--batch=129 on 2 devices: expected a multiple of the devices')


def test_without_the_compiler_one_line_says_what_to_install(monkeypatch, capsys):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  assert error_line(capsys).endswith('is not installed: expected it as launch/setup.sh gpu-aot installs it')


def test_collectives_other_than_all_reduces_end_with_status_1(monkeypatch, capsys, tmp_path):
  counts = {'kernels': {'cudnn': 3}, 'optimiser': 0, 'bytes_moved': 9, 'bytes_temporary': 9, 'compile_seconds': 1.0}
  foreign = counts | {'kernels': {'cudnn': 3, 'all-gather': 1}}
  monkeypatch.setattr(gpu, 'find_devices', lambda parser, target, devices: jax.devices()[:1])
  for train, status in ((counts, 0), (foreign, 1)):
    row = {'network': 'WRN-10-1 S', 'devices': 1, 'floor_bytes': 5, 'train': train, 'evaluation': counts}
    monkeypatch.setattr(gpu, 'count_network', lambda *_, row=row: row)
    with pytest.raises(SystemExit) as end:
      gpu.main(['--networks', 'WRN-10-1 S', '--devices', '1', f'--json={tmp_path / "rows.json"}'])
    assert end.value.code == status
    assert ('expected all-reduces alone' in capsys.readouterr().err) == bool(status)
    assert json.loads((tmp_path / 'rows.json').read_text())['rows'] == [row]


@needs_compiler
def test_a_bad_description_is_told_in_one_line(capsys, tmp_path):
  (tmp_path / 'target.txt').write_text('nothing: of this')
  line = error_line(capsys, f'--target={tmp_path / "target.txt"}')
  assert line.endswith('expected a description as benchmarks/h100.txt')


@needs_compiler
def test_a_network_is_compiled_for_a_gpu_and_its_parameters_are_updated_at_once():
  flags = argparse.Namespace(batch=16, image_size=8, dtype='bfloat16')
  replicas = DescribedReplicas(gpu.find_devices(argparse.ArgumentParser(), H100, 1))
  row = gpu.count_network(gpu.Architecture.parse('WRN-10-1 S'), flags, replicas)
  kernels = row['train']['kernels']
  # 7 convolutions of 3x3 and 2 of 1x1, each thrice but for the gradient of the images.
  assert kernels['cudnn'] == 3 * 9 - 1
  assert row['evaluation']['kernels']['cudnn'] == 9
  # The network has 24 arrays of parameters: each is not updated by a kernel of its own.
  assert 0 < row['train']['optimiser'] < 10
  assert row['train']['bytes_moved'] > row['evaluation']['bytes_moved'] > 0


@needs_compiler
def test_several_devices_reduce_and_do_nothing_else_to_each_other():
  replicas = DescribedReplicas(gpu.find_devices(argparse.ArgumentParser(), H100, 2))
  x = replicas.replicate(np.zeros((1, 8, 8, 16), np.float32))
  kernel = replicas.replicate(np.zeros((3, 3, 16, 16), np.float32))

  def step(x, kernel):
    y = jax.lax.conv(x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1), (1, 1), 'SAME')
    return total(y.sum(), replicas.axis_name)

  counts = gpu.compile_and_count(lambda: replicas.compile(step).lower(x, kernel))
  assert counts['kernels']['all-reduce'] == 1
  assert not gpu.foreign_collectives(counts['kernels'])
