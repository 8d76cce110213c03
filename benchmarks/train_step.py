"""Measures the train step of every network of Table 3, ours and PyTorch's, in images a second.

  python -m benchmarks.train_step --json=train_step.json
  python -m benchmarks.train_step --networks S 'G(N/8)' 'WRN-16-1 S' --batch=1024 --dtype=bfloat16

Ours is the step that training takes: uint8 images gathered from the device's memory, augmented, forward, cross entropy,
backward, SGD, on all local devices, and beside it on one. A CPU is divided into one device a core. PyTorch's is the
same network with the same optimiser on images that are augmented and normalised already, on all cores or on the GPU:
eager, in NCHW (the authors' layout) and in channels_last, and on a GPU also by torch.compile in channels_last, which
compiles for a minute and can be left out or measured alone (--pytorch). All take turns in one run, and the medians
count. Where WRN-40-2 S is among the networks, our step of it on the most devices takes its turns with every network.
The ratios are those of the fastest of ours; 'to S' of S itself is 1 but for the noise.

XLA compiles a step of WRN-40-2 for a GPU in about a minute of one core. So on one device the networks are compiled
beside each other before any is timed.

On a CPU, PyTorch's threads sleep while they wait for each other (OMP_WAIT_POLICY=passive, unless it is set to something
else). By default they spin, which costs nothing where no one else uses the cores, and up to 50 times where they are
shared with another process or with the threads of XLA. PyTorch has no part in the comparison on a TPU.
"""

import argparse
import functools
import os
import statistics
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from benchmarks.command import (
  NUM_CLASSES,
  TEACHER,
  calls_per_sample,
  first_line,
  make_config,
  make_network,
  make_parser,
  write_json,
)
from moonshine_jax.cost import counting
from moonshine_jax.cost.timing import time_in_turns
from moonshine_jax.data.feeds import ResidentFeed
from moonshine_jax.data.splits import Split
from moonshine_jax.models.wide_resnet import Architecture
from moonshine_jax.runtime.cpu import available_cores
from moonshine_jax.runtime.devices import Replicas, use_all_cores
from moonshine_jax.training import optimizer
from moonshine_jax.training import step as step_lib

PYTORCH = ('eager', 'compiled')
REFERENCE = 'S'  # the name of our run of the teacher's network
NCHW, CHANNELS_LAST, COMPILED = 'PyTorch NCHW', 'PyTorch channels_last', 'PyTorch compiled'


def main(arguments: list[str] | None = None) -> None:
  """Measures the networks one after the other and prints a row for each."""
  parser = make_parser(__doc__, repeats=7)
  add_step_arguments(parser)
  parser.add_argument(
    '--pytorch', nargs='*', choices=PYTORCH, default=PYTORCH, help='which runs of PyTorch (default: all)'
  )
  flags = parser.parse_args(arguments)
  use_all_cores(flags.batch)
  check_devices(parser, flags)
  torch_device = set_up_torch() if flags.pytorch else None

  names = [run_name(devices) for devices in flags.devices]
  on_one_device = make_together({network: (network, flags, 1) for network in flags.networks if flags.devices == [1]})
  reference = {}
  if TEACHER in flags.networks:
    reference[REFERENCE] = make_our_train_step(TEACHER, flags, max(flags.devices))
  names += reference
  if torch_device:
    names += [NCHW, CHANNELS_LAST] * ('eager' in flags.pytorch)
    names += [COMPILED] * (torch_device == 'cuda' and 'compiled' in flags.pytorch)
  print_header(names)
  rows, failures = [], []
  for architecture in flags.networks:
    try:
      if on_one_device:
        runs = {run_name(1): on_one_device[architecture].result()}
      else:
        runs = {run_name(devices): make_our_train_step(architecture, flags, devices) for devices in flags.devices}
      runs |= reference
      if torch_device:
        runs |= make_torch_train_steps(architecture, flags, torch_device)
      rows.append(measure_network(architecture, flags, runs))
    except RuntimeError as error:  # of XLA, of PyTorch, and of the device's memory: the other networks go on
      failures.append(f'{architecture}: {first_line(error)}')
      print(failures[-1], flush=True)
      continue
    rows[-1]['ratios'] = speed_ratios(rows[-1])
    print_row(rows[-1], names)
    write_json(flags.json, flags, rows)  # after every network: all of them take an hour on a CPU
  if failures:
    sys.exit(f'error: {"; ".join(failures)}')


def add_step_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of a measurement of train steps."""
  parser.add_argument('--batch', type=int, default=128, help='images in a step, over all devices (default: 128)')
  parser.add_argument('--devices', nargs='+', type=int, help='numbers of devices for our step (default: 1 and all)')


def check_devices(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> None:
  """Fills in the default of `--devices`, and ends the command where they are too many or do not divide the batch."""
  local = jax.local_device_count()
  flags.devices = flags.devices or sorted({1, local})
  for devices in flags.devices:
    if flags.batch < 1 or not 1 <= devices <= local or flags.batch % devices:
      parser.error(f'--devices {devices}: expected a divisor of --batch {flags.batch}, at most {local}')


def run_name(devices: int) -> str:
  """Names our run on so many devices."""
  return f'ours, {devices} device' + 's' * (devices > 1)


def make_together(of: dict[Any, tuple[Any, ...]]) -> dict[Any, Future[Callable[[], None]]]:
  """Makes our train steps of these arguments, all beside each other, and calls each once: it compiles.

  Only on one device: what runs on several at once may wait for each other's all-reduces for ever.
  """

  def make(*args):
    run = make_our_train_step(*args)
    run()
    return run

  with ThreadPoolExecutor(available_cores()) as pool:
    return {key: pool.submit(make, *args) for key, args in of.items()}


def make_our_train_step(
  architecture: Architecture, flags: argparse.Namespace, devices: int, options: Mapping[str, Any] | None = None
) -> Callable[[], None]:
  """Makes a function that takes `calls_per_sample` of our train steps, in one dispatch, and waits for them.

  Args:
    architecture: of the network.
    flags: with `batch`, `image_size` and `dtype`.
    devices: how many of the local devices it takes.
    options: of XLA; by default those of training.

  Returns:
    The function; its first call compiles.
  """
  config = make_config(architecture, flags.batch, flags.dtype)
  replicas = Replicas(jax.local_devices()[:devices], options)
  network = make_network(config, replicas.axis_name)
  images, labels = synthetic_batch(flags.batch, flags.image_size)
  feed = ResidentFeed(Split(images, labels), replicas)
  index = np.tile(np.arange(flags.batch, dtype=np.int32), (calls_per_sample(), 1))
  (batches,) = feed.batches([{'index': index}], axis=1)
  tx = optimizer.create_optimizer(config, steps_per_epoch=1000)
  keys = jax.random.split(jax.random.key(0))
  states = replicas.replicate((step_lib.create_train_state(network, images.shape[1:], tx, *keys),))
  teacher_variables = replicas.replicate({})
  train_step = step_lib.make_train_step([config], [network], None, [tx], feed.gather, replicas)
  train_loop = step_lib.compile_train_loop(train_step, replicas)

  def run():
    nonlocal states
    states, metrics = train_loop(states, teacher_variables, feed.data, batches)
    jax.block_until_ready((states, metrics))

  return run


def synthetic_batch(batch: int, image_size: int) -> tuple[np.ndarray, np.ndarray]:
  """Returns a batch of noise: uint8 images (batch, height, width, 3) and int32 labels (batch,)."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (batch, image_size, image_size, 3), np.uint8)
  return images, rng.integers(0, NUM_CLASSES, batch).astype(np.int32)


def set_up_torch() -> str | None:
  """Sets PyTorch up to use all of its device, and returns the name of the device.

  Returns:
    'cpu' or 'cuda'; None where PyTorch cannot take part, after a line that says why.
  """
  os.environ.setdefault('OMP_WAIT_POLICY', 'passive')  # read when PyTorch is imported
  try:
    from benchmarks import torch_wide_resnet
  except ModuleNotFoundError as error:
    if error.name != 'torch':
      raise
    print('PyTorch is not installed: ours is measured alone.')
    return None
  device = torch_wide_resnet.torch_device_for(jax.default_backend())
  if device is None:
    print(f'This PyTorch cannot use the {jax.default_backend()}: ours is measured alone.')
  else:
    torch_wide_resnet.configure_for_speed(device, available_cores())
  return device


def make_torch_train_steps(
  architecture: Architecture, flags: argparse.Namespace, device: str
) -> dict[str, Callable[[], None]]:
  """Makes functions that take `calls_per_sample` of PyTorch's train steps, by name, on a device of PyTorch."""
  import torch

  from benchmarks import torch_wide_resnet

  images, labels = synthetic_batch(flags.batch, flags.image_size)
  images = torch.from_numpy(images.transpose(0, 3, 1, 2) / np.float32(127.5) - 1).to(device)
  labels = torch.from_numpy(labels).long().to(device)

  def build(channels_last, compiled=False):
    network = torch_wide_resnet.WideResNet(*architecture, NUM_CLASSES).to(device)
    run = torch_wide_resnet.make_train_step(network, images, labels, flags.dtype, channels_last, compiled)
    return functools.partial(run, calls_per_sample())

  runs = {}
  if 'eager' in flags.pytorch:
    runs |= {NCHW: build(channels_last=False), CHANNELS_LAST: build(channels_last=True)}
  if device == 'cuda' and 'compiled' in flags.pytorch:
    torch.compiler.reset()  # it compiles one function for a few networks only, and then falls back to eager
    runs[COMPILED] = build(channels_last=True, compiled=True)
  return {name: run for name, run in runs.items() if works(f'{name}, {architecture}', run)}


def works(name: str, run: Callable[[], None]) -> bool:
  """Calls one of PyTorch's runs. Returns whether it works, and says why it does not: ours is then measured without."""
  try:
    run()
  except Exception as error:  # of any type: it depends on what PyTorch finds on the machine
    print(f'{name} does not work: {first_line(error)}', flush=True)
    return False
  return True


def measure_network(architecture: Architecture, flags: argparse.Namespace, runs: dict[str, Callable[[], None]]) -> dict:
  """Measures the runs of a network, by name, in turns, each of `calls_per_sample` steps.

  Returns:
    A row: what the network costs, and the median, lowest and highest images a second of every run.
  """
  times = time_in_turns(runs, flags.repeats)
  images = flags.batch * calls_per_sample()
  speeds = {name: [images / seconds for seconds in samples] for name, samples in times.items()}
  model = make_network(make_config(architecture, flags.batch, flags.dtype)).model
  counts = counting.count_cost(model, (flags.image_size, flags.image_size, 3))
  return {
    'network': str(architecture),
    'parameters': counts.parameters,
    'multiply_adds': counts.multiply_adds,
    'images_per_second': {name: statistics.median(samples) for name, samples in speeds.items()},
    'lowest': {name: min(samples) for name, samples in speeds.items()},
    'highest': {name: max(samples) for name, samples in speeds.items()},
  }


def fastest_of_ours(row: dict) -> float:
  """Returns the images a second of the fastest of our runs."""
  return max(speed for name, speed in row['images_per_second'].items() if name.startswith('ours'))


def speed_ratios(row: dict) -> dict[str, float]:
  """Returns the speed of the fastest of our runs as a multiple of each other run's."""
  return {
    name: fastest_of_ours(row) / speed
    for name, speed in row['images_per_second'].items()
    if not name.startswith('ours')
  }


def print_header(names: list[str]) -> None:
  """Prints the head of the table, with a column for each run and each ratio."""
  compared = [name for name in names if not name.startswith('ours')]
  print("images a second, and the fastest of ours as a multiple of PyTorch's and of S, which is ours of WRN-40-2 S")
  print(
    f'{"network":<20} {"parameters":>10} {"madds":>11}'
    + ''.join(f' {name:>21}' for name in names)
    + ''.join(f' {"to " + name.removeprefix("PyTorch "):>16}' for name in compared),
    flush=True,
  )


def print_row(row: dict, names: list[str]) -> None:
  """Prints the row of a network."""
  speeds, multiples = row['images_per_second'], row['ratios']
  compared = [name for name in names if not name.startswith('ours')]
  print(
    f'{row["network"]:<20} {row["parameters"]:>10} {row["multiply_adds"]:>11}'
    + ''.join(f' {speeds[name]:>21.1f}' if name in speeds else f' {"-":>21}' for name in names)
    + ''.join(f' {multiples[name]:>16.2f}' if name in multiples else f' {"-":>16}' for name in compared),
    flush=True,
  )


if __name__ == '__main__':
  main()
