"""Measures latency at batch 1 and throughput at batch 128 of every network of Table 3, and plots both.

  python -m benchmarks.inference --json=inference.json --plot=inference.svg
  python -m benchmarks.inference --networks S 'G(N/8)' --dtype=bfloat16

The forward pass in evaluation mode, from uint8 images to logits, is compiled for one device. All networks take turns,
and the medians count. A latency is that of one image, from the call to the logits; a throughput is that of batches
called one after the other. The plot shows what a multiply-add costs; it needs Matplotlib.
"""

import argparse
import functools
import statistics

import jax

from benchmarks.command import calls_per_sample, make_config, make_network, make_parser, write_json
from moonshine_jax.cost import counting
from moonshine_jax.cost.latency import compile_forward
from moonshine_jax.cost.timing import time_in_turns


def main(arguments: list[str] | None = None) -> None:
  """Measures the networks, prints the table and writes JSON and plot."""
  parser = make_parser(__doc__, repeats=15)
  parser.add_argument('--batch', type=int, default=128, help='images, for the throughput (default: 128)')
  parser.add_argument('--plot', help='SVG, PNG or PDF file for the plot')
  flags = parser.parse_args(arguments)

  rows = measure_networks(flags)
  print(
    f'{"network":<20} {"parameters":>10} {"madds":>11} {"batch 1 ms":>11} {f"batch {flags.batch} images/s":>20} '
    f'{"ns a 1000 madds":>16}'
  )
  for row in rows:
    print(
      f'{row["network"]:<20} {row["parameters"]:>10} {row["multiply_adds"]:>11} {1e3 * row["latency"]:>11.3f} '
      f'{row["images_per_second"]:>20.1f} {1e12 / row["images_per_second"] / row["multiply_adds"]:>16.2f}'
    )
  write_json(flags.json, flags, rows)
  if flags.plot:
    plot_costs(rows, flags)


def measure_networks(flags: argparse.Namespace) -> list[dict]:
  """Returns a row for each network: its costs, seconds for a batch of one and images a second for `flags.batch`."""
  rows, single_images, batches = [], {}, {}
  for architecture in flags.networks:
    network = make_network(make_config(architecture, 1, flags.dtype))
    image_shape = (flags.image_size, flags.image_size, 3)
    counts = counting.count_cost(network.model, image_shape)
    rows.append({'network': str(architecture), 'parameters': counts.parameters, 'multiply_adds': counts.multiply_adds})
    single_images[str(architecture)] = functools.partial(compile_forward(network, image_shape, batch=1), 1)
    batches[str(architecture)] = functools.partial(
      compile_forward(network, image_shape, flags.batch), calls_per_sample()
    )
  latencies, times = time_in_turns(single_images, flags.repeats), time_in_turns(batches, flags.repeats)
  images = flags.batch * calls_per_sample()
  for row in rows:
    row['latency'] = statistics.median(latencies[row['network']])
    row['latencies'] = latencies[row['network']]
    row['images_per_second'] = images / statistics.median(times[row['network']])
    row['seconds_an_image'] = [seconds / images for seconds in times[row['network']]]
  return rows


def plot_costs(rows: list[dict], flags: argparse.Namespace) -> None:
  """Writes the plot to `flags.plot`, or says that Matplotlib is missing."""
  try:
    from benchmarks import cost_plot
  except ModuleNotFoundError as error:
    if error.name != 'matplotlib':
      raise
    print('Matplotlib is not installed: there is no plot.')
    return
  device = jax.devices()[0].device_kind
  cost_plot.write_plot(
    flags.plot,
    {
      f'one image at a time, {device}, {flags.dtype}': [
        (row['network'], row['multiply_adds'] / 1e6, 1e3 * row['latency']) for row in rows
      ],
      f'batches of {flags.batch}, {device}, {flags.dtype}': [
        (row['network'], row['multiply_adds'] / 1e6, 1e3 / row['images_per_second']) for row in rows
      ],
    },
  )


if __name__ == '__main__':
  main()
