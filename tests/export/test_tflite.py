"""TFLite files as the command writes them."""

from moonshine_jax.export import tflite
from tests.helpers.exports import assert_exports_float32_and_int8, skip_without


def test_the_command_writes_float32_and_int8(digits_runs, tmp_path):
  skip_without(tflite)
  assert_exports_float32_and_int8(digits_runs, tmp_path / 'student.tflite', tflite, 'tflite')
