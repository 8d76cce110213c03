"""Trains or distils a network: `python -m moonshine_jax.main --config=configs/cifar10.py --workdir=DIR`."""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from moonshine_jax import config, errors
from moonshine_jax.runtime import exchange, processes
from moonshine_jax.runtime.devices import cache_compilations, use_all_cores
from moonshine_jax.training import loop

CONFIG = config_flags.DEFINE_config_file('config', None, 'The config; each of its fields is a flag --config.FIELD.')
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder for checkpoints, metrics and the config.')
processes.define_flags()


def main() -> None:
  with processes.processes():
    train_and_tell()


def train_and_tell() -> None:
  errors.require_flags(config=CONFIG.value, workdir=WORKDIR.value)
  loaded = config.loaded(CONFIG.value)
  config.check(loaded)
  use_all_cores(loaded.batch_size, exchange.num_processes())
  cache_compilations(Path(WORKDIR.value).absolute().parent / '.jax_cache')
  for workdir, record in loop.train_and_evaluate(loaded, WORKDIR.value).items():
    print(
      f'{workdir}: test error {record["test_error"]:.2f}% after {record["epoch"]} epochs '
      f'(the best epoch had {record["best_test_error"]:.2f}%)'
    )


if __name__ == '__main__':
  errors.run_command(main)
