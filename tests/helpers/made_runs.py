"""Runs that were never trained: as values, and as workdirs as training leaves them, but for the checkpoints."""

from pathlib import Path

from moonshine_jax import config as config_lib
from moonshine_jax import paper
from moonshine_jax.configs import cifar10
from moonshine_jax.data.splits import Facts
from moonshine_jax.report import runs as runs_lib
from moonshine_jax.runtime import files
from moonshine_jax.workdir import metrics, provenance
from moonshine_jax.workdir.workdir import Workdir

START = {
  'time': '2026-01-02T03:04:05+0000',
  'step': 0,
  'command': 'python -m moonshine_jax.main --config=<x> & more',
  'backend': 'gpu',
  'device': 'NVIDIA H100',
  'devices': 1,
  'processor': 'AMD EPYC',
  'cpus': 8,
  'python': '3.11.7',
  'jax': '0.10.2',
  'jaxlib': '0.10.2',
  'flax': '0.12.8',
  'optax': '0.2.8',
  'orbax': '0.12.8',
  'commit': 'abc123',
}


def make_run(name: str, test_errors: list[float], parameters: int = 1234567, **fields) -> runs_lib.Run:
  """A run of CIFAR-10's config with other fields by dotted name, which had these test errors after its epochs."""
  config = cifar10.get_config()
  config.update_from_flattened_dict(fields)
  return runs_lib.Run(
    name,
    config,
    Facts((32, 32, 3), 10, (0.0,), (1.0,)),
    parameters,
    7654321,
    len(test_errors),
    tuple(range(1, len(test_errors) + 1)),
    tuple(test_errors),
    (START,),
  )


def make_table(printed: tuple[paper.PrintedNetwork, ...]) -> list[runs_lib.Run]:
  """The teacher and every student by attention transfer with the errors that the paper printed, after 2 epochs."""
  runs = []
  for i, row in enumerate(printed):
    distill = {'distill.teacher': 'run 0', 'distill.alpha': 0.0} if i else {}
    runs.append(
      make_run(
        f'run {i}',
        [50.0, row.at_error or row.error],
        row.parameters,
        **{'epochs': 2, 'model.depth': row.depth, 'model.width': row.width, 'model.block': row.block, **distill},
      )
    )
  return runs


def write(workdir: Path, test_errors: list[float], **fields) -> None:
  """The workdir of `make_run`."""
  run = make_run(workdir.name, test_errors, **fields)
  workdir.mkdir(parents=True)
  Workdir(workdir).write_config(run.config)
  files.append_record(
    workdir / provenance.FILE, {**START, 'config': config_lib.to_json(run.config), 'data': run.facts.to_json()}
  )
  for epoch, error in enumerate(test_errors, start=1):
    files.append_record(
      workdir / metrics.FILE,
      {'epoch': epoch, 'step': 390 * epoch, 'test_error': error, 'best_test_error': min(test_errors[:epoch])},
    )
