"""The floors against a count by hand and against the project's figures for an H200."""

import json

import pytest

from benchmarks import command, roofline
from moonshine_jax.models.wide_resnet import WideResNet

# Seconds for 200 epochs in bfloat16 at 790 TFLOP/s and 4.3 TB/s.
H200 = {'S': (25, 54), 'G(N/8)': (7, 97), 'G(N)': (3, 97), 'BG(2,M/8)': (3, 56)}


def test_near_the_figures_for_an_h200(tmp_path):
  path = tmp_path / 'floors.json'
  roofline.main(
    ['--dtype=bfloat16', '--device=H200', '--tflops=790', '--bandwidth=4300', f'--json={path}', '--networks', *H200]
  )
  for row, (arithmetic, memory) in zip(json.loads(path.read_text())['rows'], H200.values(), strict=True):
    assert roofline.RECIPE_IMAGES * row['arithmetic'] == pytest.approx(arithmetic, abs=0.5)
    assert roofline.RECIPE_IMAGES * row['memory'] == pytest.approx(memory, rel=0.15)
    assert row['floor'] == row['memory']


def test_passes_counted_by_hand():
  # WRN-10-1 S on 8x8 images: 64 pixels, then 16, then 4; 16, 32 and 64 channels.
  image, stem = 64 * 3, 64 * 16
  conv2, conv3, conv4 = 64 * 16, 16 * 32, 4 * 64
  convolutions = (
    (image + stem)
    + (stem + conv2)
    + 2 * conv2
    + (2 * conv2 + 2 * conv3)
    + 2 * conv3
    + (2 * conv3 + 2 * conv4)
    + 2 * conv4
  )  # where the strides begin, the shortcut's and the branch's
  norms = (stem + conv2) + (conv2 + conv3) + (conv3 + conv4) + conv4
  blocks = conv2 + conv3 + conv4
  assert roofline.activation_passes(WideResNet(10, 1, 'S', 10), (8, 8, 3)) == 3 * convolutions + 8 * norms + 6 * blocks


def test_bytes_follow_the_dtype():
  parser = command.make_parser('', repeats=5)
  parser.add_argument('--batch', type=int, default=128)
  rows = [
    roofline.compute_floor(command.TEACHER, parser.parse_args([f'--dtype={dtype}']), 790, 4300)
    for dtype in ('float32', 'bfloat16')
  ]
  assert rows[0]['bytes_moved'] == 2 * rows[1]['bytes_moved']


def test_a_device_by_name_needs_both_figures(capsys):
  with pytest.raises(SystemExit):
    roofline.main(['--device=H200', '--tflops=790'])
  assert '--bandwidth' in capsys.readouterr().err


def test_share_of_a_measured_step(tmp_path):
  path = tmp_path / 'rows.json'
  roofline.main(
    [
      '--networks',
      'WRN-10-1 S',
      '--batch=4',
      '--image_size=8',
      '--repeats=1',
      '--devices',
      '1',
      '--tflops=1',
      '--bandwidth=10',
      f'--json={path}',
    ]
  )
  (row,) = json.loads(path.read_text())['rows']
  assert row['devices'] == 1
  assert row['share'] == pytest.approx(row['floor'] * row['images_per_second'])


def test_share_of_steps_that_are_measured_already(tmp_path, capsys):
  steps, path = tmp_path / 'steps.json', tmp_path / 'rows.json'
  flags = {'batch': 1024, 'dtype': 'bfloat16', 'image_size': 32, 'devices': [1, 2]}
  speeds = {'ours, 1 device': 50.0, 'ours, 2 devices': 80.0, 'PyTorch NCHW': 90.0}
  steps.write_text(json.dumps({'flags': flags, 'rows': [{'network': 'WRN-40-2 S', 'images_per_second': speeds}]}))
  peaks = ['--tflops=1', '--bandwidth=10', '--dtype=bfloat16', '--networks', 'S', 'G(N)']
  roofline.main([*peaks, '--batch=1024', f'--steps={steps}', f'--json={path}'])
  (row,) = json.loads(path.read_text())['rows']  # of the network that is measured
  assert (row['images_per_second'], row['devices']) == (80.0, 2)
  assert row['share'] == pytest.approx(row['floor'] * 80)  # two devices of a CPU are one machine
  with pytest.raises(SystemExit):
    roofline.main([*peaks, '--batch=128', f'--steps={steps}'])
  assert 'measured with --batch=1024: expected the same here' in capsys.readouterr().err
  with pytest.raises(SystemExit):
    roofline.main([*peaks, '--steps=nowhere'])
  assert '--steps=nowhere: No such file' in capsys.readouterr().err
  devices = '{"flags": {"devices": [1]}, "rows": []}'
  for torn, told in (
    ('{"flags"', 'JSONDecodeError'),
    ('{"flags": {}, "rows": []}', "KeyError('devices')"),
    (devices, "KeyError('batch')"),
  ):
    steps.write_text(torn)
    with pytest.raises(SystemExit):
      roofline.main([*peaks, f'--steps={steps}'])
    assert f'--steps={steps}: {told}' in capsys.readouterr().err
