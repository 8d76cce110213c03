"""Trains or distils a network: `python -m moonshine_jax.main --config=configs/cifar10.py --workdir=DIR`."""

from absl.flags import FlagValues

from moonshine_jax.cli import app
from moonshine_jax.data import sources
from moonshine_jax.errors import UserError, say
from moonshine_jax.runtime import devices, exchange, processes
from moonshine_jax.training import loop
from moonshine_jax.workdir.workdir import AVERAGE_FOLDER


def main(values: FlagValues) -> None:
  """Trains as the flags of `moonshine train` say, and prints the test error of each network."""
  with processes.connect(values.distributed, values.coordinator_address, values.num_processes, values.process_id):
    devices.use_all_cores(values.config.batch_size, exchange.num_processes())
    devices.cache_compilations(values.workdir)
    records = loop.train_and_evaluate(values.config, values.workdir, values.trust_code)
    evaluated_on = sources.evaluated_on(values.config.data)
    for workdir, record in records.items():
      if not {'test_error', 'best_test_error'} <= record.keys():  # of a run that was finished
        raise UserError(f'{workdir}: its last record has no test error: expected one, as training writes it')
      average = ''
      if 'ema_test_error' in record:
        average = f'; the averaged weights in {workdir / AVERAGE_FOLDER} have {record["ema_test_error"]:.2f}%'
      say(
        f'{workdir}: {evaluated_on} error {record["test_error"]:.2f}% after {record["epoch"]} epochs '
        f'(the best epoch had {record["best_test_error"]:.2f}%){average}'
      )


if __name__ == '__main__':
  app.run('train')
