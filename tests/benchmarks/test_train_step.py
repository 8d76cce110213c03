"""The command on the smallest networks, with PyTorch and without; never how fast they are."""

import json
import sys

import pytest

import benchmarks
from benchmarks import train_step
from moonshine_jax.models.wide_resnet import Architecture

SMALL = ['--batch=4', '--image_size=8', '--repeats=2']


def rows_of(tmp_path, *arguments):
  path = tmp_path / 'rows.json'
  train_step.main([*SMALL, f'--json={path}', *arguments])
  return json.loads(path.read_text())['rows']


@pytest.fixture
def no_torch(monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  monkeypatch.delitem(sys.modules, 'benchmarks.torch_wide_resnet', raising=False)
  monkeypatch.delattr(benchmarks, 'torch_wide_resnet', raising=False)


def test_ours_alone_on_two_devices(tmp_path, capsys, no_torch):
  (row,) = rows_of(tmp_path, '--networks', 'WRN-10-1 S', '--devices', '2')
  assert 'PyTorch is not installed' in capsys.readouterr().out
  assert list(row['images_per_second']) == ['ours, 2 devices']
  assert row['ratios'] == {}
  assert (row['network'], row['parameters'], row['multiply_adds']) == ('WRN-10-1 S', 78330, 781952)


def test_ours_alone_where_no_run_of_pytorch_is_asked_for(tmp_path, monkeypatch):
  monkeypatch.setattr(train_step, 'set_up_torch', lambda: pytest.fail('nothing of PyTorch is asked for'))
  monkeypatch.setattr(train_step, 'make_our_train_step', lambda *_: lambda: None)
  (row,) = rows_of(tmp_path, '--networks', 'WRN-10-1 S', '--devices', '1', '--pytorch')
  assert list(row['images_per_second']) == ['ours, 1 device']


def test_beside_pytorch(tmp_path, capsys):
  pytest.importorskip('torch')
  (row,) = rows_of(tmp_path, '--networks', 'WRN-10-1 S', '--devices', '1')
  speeds = row['images_per_second']
  assert list(speeds) == ['ours, 1 device', train_step.NCHW, train_step.CHANNELS_LAST]
  for name in (train_step.NCHW, train_step.CHANNELS_LAST):
    assert row['ratios'][name] == pytest.approx(speeds['ours, 1 device'] / speeds[name])
    assert row['lowest'][name] <= speeds[name] <= row['highest'][name]
  assert 'WRN-10-1 S' in capsys.readouterr().out


def test_ratios_are_those_of_the_fastest_of_ours():
  speeds = {'ours, 1 device': 45, 'ours, 2 devices': 40, train_step.REFERENCE: 90, train_step.NCHW: 30}
  assert train_step.speed_ratios({'images_per_second': speeds}) == {train_step.REFERENCE: 0.5, train_step.NCHW: 1.5}


def test_the_s_network_takes_its_turns_with_every_other(tmp_path, monkeypatch, no_torch):
  monkeypatch.setattr(train_step, 'TEACHER', Architecture(10, 1, 'S'))
  rows = rows_of(tmp_path, '--networks', 'WRN-10-1 S', 'WRN-10-1 B(2)', '--devices', '1')
  for row in rows:
    speeds = row['images_per_second']
    assert row['ratios'] == {'S': pytest.approx(speeds['ours, 1 device'] / speeds['S'])}


def test_on_one_device_all_networks_are_compiled_before_any_is_timed(tmp_path, monkeypatch, no_torch):
  calls = []
  monkeypatch.setattr(
    train_step, 'make_our_train_step', lambda architecture, *_: lambda: calls.append(architecture.block)
  )
  rows_of(tmp_path, '--networks', 'WRN-10-1 S', 'WRN-10-1 B(2)', '--devices', '1')
  assert sorted(calls[:2]) == ['B(2)', 'S']
  assert calls[2:] == ['S'] * (len(calls[2:]) // 2) + ['B(2)'] * (len(calls[2:]) // 2)


@pytest.mark.parametrize('devices', ['3', '9', '0'])
def test_devices_that_do_not_fit(devices, capsys):
  with pytest.raises(SystemExit):
    train_step.main([*SMALL, '--devices', devices])
  assert 'a divisor of --batch 4' in capsys.readouterr().err


def test_a_network_that_fails_is_told_and_the_others_go_on(tmp_path, monkeypatch, no_torch, capsys):
  def make(architecture, flags, devices):
    def run():
      if architecture.block == 'B(2)':
        raise RuntimeError('RESOURCE_EXHAUSTED: out of memory\nand more')

    return run

  monkeypatch.setattr(train_step, 'make_our_train_step', make)
  path = tmp_path / 'rows.json'
  networks = ['--networks', 'WRN-10-1 B(2)', 'WRN-10-1 S', '--devices', '1']
  with pytest.raises(SystemExit, match='^error: WRN-10-1 B.2.: RESOURCE_EXHAUSTED: out of memory$'):
    train_step.main([*SMALL, f'--json={path}', *networks])
  assert [row['network'] for row in json.loads(path.read_text())['rows']] == ['WRN-10-1 S']


def test_a_run_of_pytorch_that_does_not_work_is_told(capsys):
  def fail():
    raise ValueError('no such kernel\nand more')

  assert train_step.works('PyTorch compiled, S', lambda: None) and not train_step.works('PyTorch compiled, S', fail)
  assert capsys.readouterr().out == 'PyTorch compiled, S does not work: no such kernel\n'
