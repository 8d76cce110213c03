"""Evaluates a trained network from its workdir alone: `python -m moonshine_jax.evaluate --workdir=DIR [--json]`."""

import json
from typing import Any

from absl import flags

from moonshine_jax import config, errors, train
from moonshine_jax.cost import counting
from moonshine_jax.data import sources
from moonshine_jax.models import factory
from moonshine_jax.runtime import exchange, processes
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.workdir import checkpoint

WORKDIR = flags.DEFINE_string('workdir', None, 'The workdir of a training run.')
DATA_DIR = flags.DEFINE_string('data_dir', None, "Where the data is, in place of the config's data.data_dir.")
JSON = flags.DEFINE_bool('json', False, 'Prints JSON.')
processes.define_flags()


def evaluate(workdir: str, data_dir: str | None = None) -> dict[str, Any]:
  """Evaluates the newest checkpoint of a workdir on its config's test split.

  Returns:
    What was evaluated ('workdir', 'step', 'network', 'block', 'regime', 'data'), 'test_error' in percent, 'test_loss',
    'examples', 'parameters' as the paper counts them, and 'multiply_adds' for one image.

  Raises:
    UserError: where there is no checkpoint or no data.
  """
  replicas = Replicas()
  variables, metadata = exchange.from_first(lambda: checkpoint.Checkpoints(workdir).network()[1:], replicas)
  network = metadata.network
  run, facts = metadata.config, metadata.facts
  if data_dir is not None:
    run.data.data_dir = data_dir
  source = sources.reopen_source(run.data, facts, workdir)
  split = exchange.first_before_others(lambda: source.read(run.data.test_split))
  result = train.evaluate_split(network, variables, split, run, replicas)
  counted = counting.count(network.model, facts.image_shape)
  return {
    'workdir': str(workdir),
    'step': metadata.step,
    'network': factory.name(run.model),
    'block': run.model.block,
    'regime': config.regime(run),
    'data': run.data.name,
    **result,
    'examples': len(split),
    'parameters': counted.parameters,
    'multiply_adds': counted.multiply_adds,
  }


def main() -> None:
  with processes.processes():
    evaluate_and_tell()


def evaluate_and_tell() -> None:
  errors.require_flags(workdir=WORKDIR.value)
  result = evaluate(WORKDIR.value, DATA_DIR.value)
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
