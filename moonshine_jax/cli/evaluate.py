"""`moonshine evaluate`: evaluates a trained network from its workdir."""

import json

from absl.flags import FlagValues

from moonshine_jax.data import names
from moonshine_jax.errors import say
from moonshine_jax.runtime import processes
from moonshine_jax.training.evaluation import evaluate_workdir


def main(values: FlagValues) -> None:
  """Prints the test error and what else `evaluate_workdir` returns."""
  with processes.connect(values.distributed, values.coordinator_address, values.num_processes, values.process_id):
    result = evaluate_workdir(values.workdir, values.data_dir, values.trust_code, values.data)
    if values.json:
      print(json.dumps(result))
      return
    say(
      f'{result["network"]} {result["block"]}, distillation {result["regime"]}, step {result["step"]}, '
      f'on {result["examples"]:,} test images of {names.title(result["data"])}'
    )
    say(f'test error     {result["test_error"]:.2f}%')
    say(f'test loss      {result["test_loss"]:.4f}')
    say(f'parameters     {result["parameters"]:,}')
    if result['multiply_adds'] is not None:
      say(f'multiply-adds  {result["multiply_adds"]:,}')
