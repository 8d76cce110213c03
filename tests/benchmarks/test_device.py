import json

import pytest

from benchmarks import device


def test_what_the_device_is(tmp_path, capsys):
  path = tmp_path / 'device.json'
  device.main(['--cpu', f'--json={path}', f'--target_config={tmp_path / "config.txt"}'])
  written = json.loads(path.read_text())
  assert written['environment']['backend'] == 'cpu' and written['rows'][0]['target_config'] is False
  assert 'platform_version: ' in capsys.readouterr().out and not (tmp_path / 'config.txt').exists()


def test_the_target_config_of_a_gpu_is_written(tmp_path, monkeypatch):
  class Topology:
    target_config = 'gpu_device_info {}'

  monkeypatch.setattr(device.xla_client, 'get_topology_for_devices', lambda devices: Topology())
  assert device.write_target_config('a GPU', str(tmp_path / 'config.txt')) == 'gpu_device_info {}'
  assert (tmp_path / 'config.txt').read_text() == 'gpu_device_info {}'


def test_without_an_accelerator(capsys):
  with pytest.raises(SystemExit) as ended:
    device.main([])
  assert ended.value.code == 2 and 'JAX finds no accelerator: expected a GPU' in capsys.readouterr().err
