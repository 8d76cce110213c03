"""A StableHLO file as the command writes it and a program with JAX reads it."""

import json

import numpy as np
from jax import export as jax_export

from moonshine_jax.export import exporter, stablehlo
from tests.helpers.exports import run_command, skip_without


def test_the_command_writes_a_file_that_runs_without_this_package(digits_runs, tmp_path):
  skip_without(stablehlo)
  path = tmp_path / 'student.stablehlo'
  process = run_command(tmp_path, f'--workdir={digits_runs}/student', '--format=stablehlo', f'--out={path}', '--json')
  assert process.returncode == 0, process.stderr
  result = json.loads(process.stdout)
  assert [row['network'] for row in result['rows']] == ['WRN-10-1 S', 'WRN-10-1 G(N/8)']
  assert result['files'] == [str(path)] and result['environment']['jax']
  row = result['rows'][1]
  assert row['bytes'] == path.stat().st_size
  assert row['difference'] <= 1e-5 * row['largest_logit'] and row['agreeing'] == 1
  assert row['beside_teacher'] == row['latency'] / result['rows'][0]['latency']
  # For any number of images, without this package, on the platforms that it says.
  exported = jax_export.deserialize(bytearray(path.read_bytes()))
  assert exported.platforms == ('cpu', 'cuda', 'tpu')
  student = exporter.read_reference(f'{digits_runs}/student', None, calibrates=True)
  images = student.test.images[:5]
  (logits,) = exported.call(images)
  np.testing.assert_allclose(logits, student.network(student.variables, images, train=False)[0], rtol=1e-4)
  assert len(student.calibration) == 256 and student.calibration.dtype == np.uint8
