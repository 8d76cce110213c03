"""Measures what each form of the losses costs in training, in images a second beside KD's.

  python -m benchmarks.losses --json=losses.json
  python -m benchmarks.losses --networks 'WRN-40-2 S' 'G(N/8)' --dtype=bfloat16

What is timed is an epoch as training has it, as `benchmarks.step_loop` times one, of a student by each form: the
forward pass of the teacher is in all but the first. The data is noise. All take turns in one run, and the medians
count. The first network is the teacher, the second its student; the defaults are those of `benchmarks.step_loop`.
"""

import argparse
import statistics
from collections.abc import Callable

from benchmarks.command import make_config, make_parser, write_json
from benchmarks.step_loop import complete_flags, make_training
from benchmarks.train_step import synthetic_batch
from moonshine_jax import losses
from moonshine_jax.cost.timing import time_in_turns
from moonshine_jax.data import feeds
from moonshine_jax.data.splits import Split
from moonshine_jax.runtime.devices import Replicas, use_all_cores

ALONE, KD = 'no distillation', 'KD hinton'


def main(arguments: list[str] | None = None) -> None:
  """Measures an epoch by each form and prints its speed beside that of KD in the form of Hinton et al."""
  parser = make_parser(__doc__, 5, networks=None, networks_help='S and G(N/8), as benchmarks.step_loop has them')
  parser.add_argument('--batch', type=int, default=128, help='images in a step, over all devices (default: 128)')
  parser.add_argument('--images', type=int, help='in an epoch (default: as benchmarks.step_loop)')
  flags = parser.parse_args(arguments)
  use_all_cores(flags.batch)
  replicas = Replicas()
  complete_flags(parser, flags, len(replicas), least=2)
  times = time_in_turns(make_runs(flags, replicas), flags.repeats)
  rows = compare_forms(times, flags.images // flags.batch * flags.batch)
  for row in rows:
    lowest, highest = row['lowest'], row['highest']
    print(f'{row["form"]:<24} {row["images_per_second"]:>8.1f} images/s ({lowest:.1f} to {highest:.1f})'
          f' {row["ratio"]:>6.3f} of {KD}')  # fmt: skip
  write_json(flags.json, flags, rows, seconds=times)


def make_runs(flags: argparse.Namespace, replicas: Replicas) -> dict[str, Callable[[], None]]:
  """Makes functions that run an epoch of a student by each form, by the names of the forms."""
  feed = feeds.ResidentFeed(Split(*synthetic_batch(flags.images, flags.image_size)), replicas)
  teacher = make_config(flags.networks[0], flags.batch, flags.dtype)
  forms = {f'KD {form}': {'beta': 0.0, 'kd_form': form} for form in losses.KD_FORMS}
  forms |= {'KD hinton, standardised': {'beta': 0.0, 'kd_form': 'hinton', 'standardise': True}}
  forms |= {f'AT {form}': {'alpha': 0.0, 'beta': 1.0, 'at_form': form} for form in losses.AT_FORMS}
  runs = {}
  for name, distill in {ALONE: {}, **forms}.items():
    student = make_config(flags.networks[1], flags.batch, flags.dtype)
    student.distill.update(distill)
    runs[name] = make_training([student], teacher if distill else None, feed, replicas, flags)
  return runs


def compare_forms(times: dict[str, list[float]], images: int) -> list[dict]:
  """Compares the speed of each form with KD's.

  Args:
    times: seconds of each epoch by form.
    images: in an epoch.

  Returns:
    Rows of the form, its median, lowest and highest images a second, and the median over KD's.
  """
  medians = {form: images / statistics.median(seconds) for form, seconds in times.items()}
  return [
    {
      'form': form,
      'images_per_second': medians[form],
      'lowest': images / max(seconds),
      'highest': images / min(seconds),
      'ratio': medians[form] / medians[KD],
    }
    for form, seconds in times.items()
  ]


if __name__ == '__main__':
  main()
