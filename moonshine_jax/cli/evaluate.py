"""Evaluates a trained network from its workdir alone: `python -m moonshine_jax.evaluate --workdir=DIR [--json]`."""

import json

from absl import flags

from moonshine_jax import errors
from moonshine_jax.data import sources
from moonshine_jax.runtime import processes
from moonshine_jax.training.evaluation import evaluate_workdir

WORKDIR = flags.DEFINE_string('workdir', None, 'The workdir of a training run.')
DATA_DIR = flags.DEFINE_string('data_dir', None, "Where the data is, in place of the config's data.data_dir.")
JSON = flags.DEFINE_bool('json', False, 'Prints JSON.')
processes.define_flags()


def main() -> None:
  with processes.processes():
    evaluate_and_tell()


def evaluate_and_tell() -> None:
  errors.require_flags(workdir=WORKDIR.value)
  result = evaluate_workdir(WORKDIR.value, DATA_DIR.value)
  if JSON.value:
    print(json.dumps(result))
    return
  print(
    f'{result["network"]} {result["block"]}, distillation {result["regime"]}, step {result["step"]}, '
    f'on {result["examples"]:,} test images of {sources.title(result["data"])}'
  )
  print(f'test error     {result["test_error"]:.2f}%')
  print(f'test loss      {result["test_loss"]:.4f}')
  print(f'parameters     {result["parameters"]:,}')
  if result['multiply_adds'] is not None:
    print(f'multiply-adds  {result["multiply_adds"]:,}')


if __name__ == '__main__':
  errors.run_command(main)
