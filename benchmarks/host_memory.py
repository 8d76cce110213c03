"""Measures what the host's memory holds at the peak of a run of CIFAR-10: programs, activations, data.

  python -m benchmarks.host_memory --data_dir=DIR --json=host_memory.json

Three whole runs of WRN-10-1 with the resident feed (an epoch, its evaluation, its checkpoint), each in a new process,
differ in one thing at a time: few images in small batches; few in the recipe's batches; the whole data set in these.
What is counted is the most memory that the process had resident, files that it maps included, above what it had once
JAX, Flax and this package were imported. So the first run is what a run takes in any case (compilation, the compiled
programs, Orbax), the second less the first is the activations, and the third less the second is the data, which is also
given as a multiple of the data set's uint8 pixels, training and test.

On a CPU the device's memory is the host's: activations are then those of the network, and the data is the decoded
file itself, mapped and not copied. On an accelerator neither need stay; what is left of them there is copies on their
way. Peaks of two runs may fall in different phases, compilation or training, so a difference is good to some tens of
MB. Needs Linux, and CIFAR-10 prepared (see the README); its epoch takes a few minutes on a CPU.
"""

import argparse
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import ml_collections

from benchmarks.command import add_json, write_json
from moonshine_jax import config as config_lib
from moonshine_jax.configs import cifar10
from moonshine_jax.data import sources
from moonshine_jax.errors import UserError
from moonshine_jax.training import loop

FEW_IMAGES = 640  # five of the recipe's batches
SMALL_BATCH = 16  # divisible by any usual number of devices, with an eighth of the recipe's activations


def main(arguments: list[str] | None = None) -> None:
  """Runs the three runs and prints what their peaks are made of."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data_dir', default='', help="where TFDS's data is (default: ~/tensorflow_datasets)")
  add_json(parser)
  flags = parser.parse_args(arguments)
  config = make_config(flags.data_dir)
  configs = shrink(config, SMALL_BATCH), shrink(config, config.batch_size), config
  try:
    data_bytes = [decode_splits(run_config) for run_config in configs][-1]
  except UserError as error:
    parser.error(str(error))

  peaks = []
  for run_config in configs:
    # Spawned, one process a run: a forked one, or a second run, would begin with what is resident already.
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as process:
      peaks.append(process.submit(peak_of_run, config_lib.to_json(run_config)).result())
  row = attribute_peaks(peaks, data_bytes)
  print('MB at the peak of a run, above those after the imports')
  for name in ('programs', 'activations', 'data', 'total'):
    print(f'{name:<12} {row[name] / 1e6:>8.1f}')
  print(f'The data is {row["data_sets"]:.2f} times the {data_bytes / 1e6:.1f} MB of the data set.')
  write_json(flags.json, flags, [row])


def make_config(data_dir: str) -> ml_collections.ConfigDict:
  """Makes the recipe of CIFAR-10 for an epoch of WRN-10-1, the smallest network."""
  config = cifar10.get_config()
  config.epochs = 1
  config.model.depth, config.model.width = 10, 1
  config.data.data_dir = data_dir
  return config


def shrink(config: ml_collections.ConfigDict, batch_size: int) -> ml_collections.ConfigDict:
  """Returns the config with few images, in batches of another size."""
  config = config.copy_and_resolve_references()
  config.batch_size = batch_size
  config.data.train_split, config.data.test_split = f'train[:{FEW_IMAGES}]', f'test[:{FEW_IMAGES}]'
  return config


def decode_splits(config: ml_collections.ConfigDict) -> int:
  """Decodes the splits of a run where they are not decoded yet, so that no run does it; returns their bytes."""
  source = sources.open_source(config.data)
  return sum(source.read(split).images.nbytes for split in (config.data.train_split, config.data.test_split))


def peak_of_run(config: dict[str, Any]) -> int:
  """Runs a run and returns the bytes of its peak above those now; to be called once in a process, and first."""
  before = resident_bytes('VmRSS')
  with tempfile.TemporaryDirectory() as workdir:
    loop.train_and_evaluate(config_lib.from_json(config), workdir)
  return resident_bytes('VmHWM') - before


def resident_bytes(field: str) -> int:
  """Returns the bytes that this process has in memory, mapped files included.

  Args:
    field: 'VmRSS' for those now, 'VmHWM' for the most since its start.
  """
  with open('/proc/self/status') as file:
    line = next(line for line in file if line.startswith(f'{field}:'))
  return 1024 * int(line.split()[1])


def attribute_peaks(peaks: list[int], data_bytes: int) -> dict[str, float]:
  """Divides the peak of the whole run into what it is made of.

  Args:
    peaks: bytes at the peaks of the three runs.
    data_bytes: of the data set.

  Returns:
    Bytes by name; 'data_sets' is the data as a multiple of the data set.
  """
  small_batches, batches, whole = peaks
  return {
    'programs': small_batches,
    'activations': batches - small_batches,
    'data': whole - batches,
    'total': whole,
    'data_set': data_bytes,
    'data_sets': (whole - batches) / data_bytes,
  }


if __name__ == '__main__':
  main()
