"""Computes the floor of every network's train step on a device, and measures how near to it the step comes.

  python -m benchmarks.roofline --dtype=bfloat16 --batch=1024 --json=roofline.json
  python -m benchmarks.roofline --dtype=bfloat16 --batch=1024 --steps=train_step.json
  python -m benchmarks.roofline --dtype=bfloat16 --device=H200 --tflops=790 --bandwidth=4300

The first command measures on this machine, the device's peak and bandwidth as well where no flag gives them: by a large
matrix product and a pass over a large array on one device. The second takes the speed of the steps from what
`benchmarks.train_step` measured with these flags. The third prints the floors of a device that the machine need not
have.

A step can be no faster than its arithmetic, nor than its memory traffic:

  arithmetic: the forward pass, the gradient of the inputs and that of the weights are each one product of two
    operations a multiply-add: 3 * 2 * multiply-adds.
  memory: with BN, ReLU and additions as separate passes over memory, which is what XLA makes of them,

    convolution: x and y 3 times each: forward reads x, writes y; the input's gradient reads dy, writes dx; the weights'
      reads x, dy.
    BN and ReLU: x 8 times: the statistics read x; normalising reads x, writes y; backward, the sums read x, dy, and
      the input's gradient reads x, dy, writes dx.
    block: its output 6 times: the addition reads two, writes one; backward, the addition of the
      shortcut's gradient does so too.

  Weights, the pool and the last layer are left out: beside the activations of 128 images or more they weigh little.

For 200 epochs of CIFAR-10 on an H200 (the third command's figures) this gives, in seconds of arithmetic and of memory
traffic: S 25 and 57, G(N/8) 7 and 100, G(N) 3 and 100, BG(2,M/8) 3 and 60. The share is that of the larger of the two
in the measured time. A share above 1 means that passes are fused, or that the activations stay in a cache.
"""

import argparse
import json
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.command import make_config, make_network, make_parser, write_json
from benchmarks.train_step import (
  add_step_arguments,
  check_devices,
  fastest_of_ours,
  make_our_train_step,
  measure_network,
  run_name,
)
from moonshine_jax.cost import counting
from moonshine_jax.cost.timing import time_in_turns
from moonshine_jax.models.blocks import BatchNormReLU, ResidualBlock
from moonshine_jax.models.wide_resnet import Architecture
from moonshine_jax.runtime.devices import use_all_cores

RECIPE_IMAGES = 200 * 50_000  # that the recipe on CIFAR-10 trains on: epochs times images

# The sides of the matrices and the bytes of the array, by backend: large enough that their time is all that counts.
MATRIX_SIDE = {'cpu': 2048, 'gpu': 8192, 'tpu': 8192}
ARRAY_BYTES = {'cpu': 2**28, 'gpu': 2**32, 'tpu': 2**31}


def main(arguments: list[str] | None = None) -> None:
  """Computes the floors, measures the steps unless `--device` names another device, and prints both."""
  parser = make_parser(__doc__, repeats=7)
  add_step_arguments(parser)
  parser.add_argument('--tflops', type=float, help='peak of one device in TFLOP/s (default: measured)')
  parser.add_argument('--bandwidth', type=float, help="of one device's memory in GB/s (default: measured)")
  parser.add_argument('--steps', help='JSON of benchmarks.train_step, whose speeds are taken (default: measured)')
  parser.add_argument('--device', help='name of another device: its floors are printed and nothing is measured')
  flags = parser.parse_args(arguments)
  if flags.device and not (flags.tflops and flags.bandwidth):
    parser.error('--device: expected --tflops and --bandwidth with it')
  measures = not flags.device
  if measures:
    use_all_cores(flags.batch)
    check_devices(parser, flags)
  tflops = flags.tflops or measure_tflops(flags.dtype, flags.repeats)
  bandwidth = flags.bandwidth or measure_bandwidth(flags.repeats)
  device = flags.device or jax.devices()[0].device_kind
  print(f'{device}, {flags.dtype}: {tflops:.3g} TFLOP/s, {bandwidth:.4g} GB/s')
  print(
    f'{"network":<20} {"arithmetic us":>14} {"memory us":>10} {"floor images/s":>15} {"200 epochs s":>13}'
    + f' {"images/s":>9} {"share":>6} {"devices":>8}' * measures
  )
  measured = read_steps(parser, flags) if flags.steps else {}
  rows = []
  for architecture in flags.networks:
    row = compute_floor(architecture, flags, tflops, bandwidth)
    print(
      f'{row["network"]:<20} {1e6 * row["arithmetic"]:>14.2f} {1e6 * row["memory"]:>10.2f} '
      f'{1 / row["floor"]:>15.0f} {RECIPE_IMAGES * row["floor"]:>13.1f}',
      end='',
      flush=True,
    )
    if measures:
      row |= measure_share(architecture, flags, row['floor'], measured.get(row['network']))
      print(f' {row["images_per_second"]:>9.1f} {row["share"]:>6.2f} {row["devices"]:>8}', end='')
    print()
    rows.append(row)
  write_json(flags.json, flags, rows, device=device, tflops=tflops, bandwidth=bandwidth)


def compute_floor(architecture: Architecture, flags: argparse.Namespace, tflops: float, bandwidth: float) -> dict:
  """Computes the least seconds that a train step takes per image on one device.

  Args:
    architecture: of the network.
    flags: with `batch`, `image_size` and `dtype`.
    tflops: peak of the device in TFLOP/s.
    bandwidth: of its memory in GB/s.

  Returns:
    The seconds of 'arithmetic' and of 'memory' traffic and the larger of both, 'floor', with the counts behind them.
  """
  model = make_network(make_config(architecture, flags.batch, flags.dtype)).model
  image_shape = (flags.image_size, flags.image_size, 3)
  multiply_adds = counting.count_cost(model, image_shape).multiply_adds
  moved = activation_passes(model, image_shape) * jnp.dtype(flags.dtype).itemsize
  arithmetic, memory = 3 * 2 * multiply_adds / (tflops * 1e12), moved / (bandwidth * 1e9)
  return {
    'network': str(architecture),
    'multiply_adds': multiply_adds,
    'bytes_moved': moved,
    'arithmetic': arithmetic,
    'memory': memory,
    'floor': max(arithmetic, memory),
  }


def activation_passes(model: nn.Module, image_shape: Sequence[int]) -> int:
  """Counts the numbers that a train step reads and writes for one image, by the rules in the module's docstring."""
  numbers = 0

  def add(module, inputs, outputs):
    nonlocal numbers
    match module:
      case nn.Conv():
        numbers += 3 * (inputs.size + outputs.size)
      case BatchNormReLU():
        numbers += 8 * outputs.size
      case ResidualBlock():
        numbers += 6 * outputs.size

  counting.visit_layers(model, image_shape, add)
  return numbers


def read_steps(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> dict[str, dict]:
  """Reads the rows of `--steps` by network, and keeps those networks; ends the command for those of other steps."""
  try:
    with open(flags.steps) as file:
      content = json.load(file)
    rows = {row['network']: row for row in content['rows']}
    flags.devices = content['flags']['devices']
    for name in ('batch', 'dtype', 'image_size'):
      if content['flags'][name] != getattr(flags, name):
        parser.error(f'--steps={flags.steps}: measured with --{name}={content["flags"][name]}: expected the same here')
  except (OSError, ValueError, LookupError, TypeError) as error:
    reason = getattr(error, 'strerror', None) or repr(error)
    parser.error(f'--steps={flags.steps}: {reason}: expected the JSON of benchmarks.train_step')
  flags.networks = [architecture for architecture in flags.networks if str(architecture) in rows]
  return rows


def measure_share(
  architecture: Architecture, flags: argparse.Namespace, floor_seconds: float, measured: dict | None = None
) -> dict:
  """Measures images a second on the fastest number of devices, and the floor's share of their time.

  Args:
    architecture: of the network.
    flags: of the command.
    floor_seconds: least seconds of an image.
    measured: the row of `benchmarks.train_step`, where it has measured the step.

  Returns:
    The images a second, the number of devices and the share.
  """
  row = measured
  if row is None:
    runs = {run_name(devices): make_our_train_step(architecture, flags, devices) for devices in flags.devices}
    row = measure_network(architecture, flags, runs)
  speed = fastest_of_ours(row)
  devices = next(number for number in flags.devices if row['images_per_second'][run_name(number)] == speed)
  # Devices of a CPU are threads of one machine; every accelerator adds its peak and its bandwidth.
  peaks = 1 if jax.default_backend() == 'cpu' else devices
  return {'images_per_second': speed, 'devices': devices, 'share': floor_seconds * speed / peaks}


def measure_tflops(dtype: str, repeats: int) -> float:
  """Measures the TFLOP/s of a large square matrix product on one device."""
  side = MATRIX_SIDE[jax.default_backend()]
  x = jax.random.normal(jax.random.key(0), (side, side), dtype)
  product = jax.jit(jnp.matmul)
  return 2 * side**3 / best_seconds(lambda: product(x, x).block_until_ready(), repeats) / 1e12


def measure_bandwidth(repeats: int) -> float:
  """Measures the GB/s of memory while one device reads a large array and writes it back."""
  x = jnp.zeros(ARRAY_BYTES[jax.default_backend()] // 4, jnp.float32)
  # Donated, so that no fresh pages are measured: on a CPU the system fills them with zeros first.
  increment = jax.jit(lambda x: x + 1, donate_argnums=0)

  def run():
    nonlocal x
    x = increment(x).block_until_ready()

  return 2 * x.nbytes / best_seconds(run, repeats) / 1e9


def best_seconds(call: Callable[[], None], repeats: int) -> float:
  """Returns the shortest time of a call, not the median: a peak is what the device can do undisturbed."""
  return min(time_in_turns({'': call}, repeats)[''])


if __name__ == '__main__':
  main()
