"""Measures what each choice of the training loop is worth, in images a second.

  python -m benchmarks.step_loop --json=step_loop.json
  python -m benchmarks.step_loop --networks 'WRN-40-2 S' 'G(N/8)' 'BG(2,M/8)' --dtype=bfloat16

What is timed is an epoch as training has it, on all local devices: the order drawn, the feed, the compiled loop, the
host a few dispatches ahead at most, the metrics fetched. The data is noise. All take turns in one run, and the medians
count:

  feed: resident on the devices, against streamed from the host (one step a dispatch: a stream knows no other).
  dispatch: as many steps in a dispatch as the recipe's config has, against one, by the resident feed.
  dtype: bfloat16 against float32, by the resident feed.
  students: several in one run, by attention transfer from one forward pass of the teacher per step, against one run
    after the other, each with a forward pass per step. An image counts once, however many students see it. The time
    saved stands beside the share of the teacher's forward passes, timed alone, in the runs one after the other, and of
    those that one run is spared. It can be more than these: the feed and the augmentation are shared too, and students
    may overlap.

The first of the networks is the teacher, which the first three comparisons train by cross entropy; the rest are its
students. By default the teacher is WRN-40-2 S, on 50,000 images, which are 390 steps of 128; on a CPU, which is divided
into one device a core, it is WRN-16-1 S on 1,280, which takes some minutes.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from benchmarks.command import make_config, make_network, make_parser, write_json
from benchmarks.train_step import synthetic_batch
from moonshine_jax.cost.timing import time_in_turns
from moonshine_jax.data import feeds
from moonshine_jax.data.splits import Split
from moonshine_jax.fields import DTYPES
from moonshine_jax.models.network import Network
from moonshine_jax.models.wide_resnet import Architecture
from moonshine_jax.runtime.devices import Replicas, use_all_cores
from moonshine_jax.training import optimizer
from moonshine_jax.training import step as step_lib
from moonshine_jax.training.loop import run_epoch

STUDENTS = ('G(N/8)', 'BG(2,M/8)', 'B(2)')
# Depth and width of the teacher and its students, and the images of an epoch, by backend.
DEFAULTS = {'cpu': (16, 1, 1280), 'gpu': (40, 2, 50_000), 'tpu': (40, 2, 50_000)}

# Names of what is timed. The resident feed's run is also that of many steps a dispatch, and of the dtype of the flags.
RESIDENT, STREAMED = 'resident feed', 'streamed feed'
MANY_STEPS, ONE_STEP = 'many steps a dispatch', 'one step a dispatch'
TOGETHER, IN_SEQUENCE, FORWARD = 'students in one run', 'one run after the other', "teacher's forward pass"
COMPARISONS = ((RESIDENT, STREAMED), (MANY_STEPS, ONE_STEP), ('bfloat16', 'float32'), (TOGETHER, IN_SEQUENCE))


def main(arguments: list[str] | None = None) -> None:
  """Measures an epoch by each choice and prints every choice beside its counterpart."""
  parser = make_parser(
    __doc__, 5, networks=None, networks_help=f'S and its students {" ".join(STUDENTS)}, as said above'
  )
  parser.add_argument('--batch', type=int, default=128, help='images in a step, over all devices (default: 128)')
  parser.add_argument('--images', type=int, help='in an epoch (default: as said above)')
  flags = parser.parse_args(arguments)
  use_all_cores(flags.batch)
  replicas = Replicas()
  complete_flags(parser, flags, len(replicas))

  times = time_in_turns(make_runs(flags, replicas), flags.repeats)
  times[MANY_STEPS] = times[flags.dtype] = times[RESIDENT]
  separate = [times[name] for name in separate_run_names(flags)]
  times[IN_SEQUENCE] = [sum(turn) for turn in zip(*separate, strict=True)]
  rows = [compare_speeds(*names, times, flags.images // flags.batch * flags.batch) for names in COMPARISONS]
  saved = sharing_gains(times, len(separate))
  print_rows(rows)
  print(
    f"{len(separate)} students in one run save {saved['saved']:.1f}% of the time. The teacher's forward passes are "
    f'{saved["teacher"]:.1f}% of it, those spared {saved["spared"]:.1f}%.'
  )
  write_json(flags.json, flags, rows, sharing=saved, seconds=times)


def complete_flags(parser: argparse.ArgumentParser, flags: argparse.Namespace, devices: int, least: int = 3) -> None:
  """Fills in the defaults of the flags, and ends the command where the flags do not fit, as `least` networks do."""
  depth, width, images = DEFAULTS[jax.default_backend()]
  flags.networks = flags.networks or [Architecture(depth, width, block) for block in ('S', *STUDENTS)]
  flags.images = images if flags.images is None else flags.images
  if len(flags.networks) < least:
    parser.error(f'--networks: expected a teacher and at least {("one student", "two students")[least - 2]}')
  if flags.batch < 1 or flags.batch % devices:
    parser.error(f'--batch={flags.batch}: expected a multiple of the {devices} devices')
  if flags.images < flags.batch:
    parser.error(f'--images={flags.images}: expected at least the {flags.batch} of a batch')
  if flags.repeats < 1:
    parser.error(f'--repeats={flags.repeats}: expected at least 1')


def separate_run_names(flags: argparse.Namespace) -> list[str]:
  """Names the run of each student alone; two students may be of one network."""
  return [f'student {i}, {network}' for i, network in enumerate(flags.networks[1:], 1)]


def make_runs(flags: argparse.Namespace, replicas: Replicas) -> dict[str, Callable[[], None]]:
  """Makes functions that run an epoch and wait for it, by the names of what is timed."""
  split = Split(*synthetic_batch(flags.images, flags.image_size))
  resident, streamed = feeds.ResidentFeed(split, replicas), feeds.StreamFeed(split, replicas)

  def config_of(network, dtype=flags.dtype):
    return make_config(network, flags.batch, dtype)

  teacher, students = config_of(flags.networks[0]), [config_of(network) for network in flags.networks[1:]]
  other_dtype = next(dtype for dtype in DTYPES if dtype != flags.dtype)
  one_step, other = config_of(flags.networks[0]), config_of(flags.networks[0], other_dtype)
  one_step.steps_per_dispatch = 1
  for student in students:
    student.distill.alpha = 0.0
  return {
    RESIDENT: make_training([teacher], None, resident, replicas, flags),
    STREAMED: make_training([teacher], None, streamed, replicas, flags),
    ONE_STEP: make_training([one_step], None, resident, replicas, flags),
    other_dtype: make_training([other], None, resident, replicas, flags),
    TOGETHER: make_training(students, teacher, resident, replicas, flags),
    **{
      name: make_training([student], teacher, resident, replicas, flags)
      for name, student in zip(separate_run_names(flags), students, strict=True)
    },
    FORWARD: make_teacher_forward(teacher, resident, replicas, flags),
  }


def make_training(
  configs: Sequence[ml_collections.ConfigDict],
  teacher_config: ml_collections.ConfigDict | None,
  feed: feeds.Feed,
  replicas: Replicas,
  flags: argparse.Namespace,
) -> Callable[[], None]:
  """Makes a function that trains networks together for an epoch.

  Args:
    configs: of the networks.
    teacher_config: of the teacher, from which they learn by attention transfer; None for cross entropy alone.
    feed: of the images.
    replicas: the devices.
    flags: of the command.

  Returns:
    A function that runs the next epoch.
  """
  image_shape = (flags.image_size, flags.image_size, 3)
  networks = [make_network(config, replicas.axis_name) for config in configs]
  teacher, teacher_variables = make_teacher(teacher_config, image_shape) if teacher_config else (None, {})
  tx = optimizer.create_optimizer(configs[0], steps_per_epoch=1000)
  states = tuple(
    step_lib.create_train_state(network, image_shape, tx, *jax.random.split(jax.random.key(seed)))
    for seed, network in enumerate(networks)
  )
  train_step = step_lib.make_train_step(configs, networks, teacher, [tx] * len(configs), feed.gather, replicas)
  return make_epochs(train_step, states, teacher_variables, feed, configs[0], replicas, flags)


def make_teacher_forward(
  teacher_config: ml_collections.ConfigDict, feed: feeds.ResidentFeed, replicas: Replicas, flags: argparse.Namespace
) -> Callable[[], None]:
  """Makes a function that runs an epoch in which the teacher sees every image and nothing is trained."""
  teacher, teacher_variables = make_teacher(teacher_config, (flags.image_size, flags.image_size, 3))

  def step(states, teacher_variables, data, batch):
    outputs = teacher(teacher_variables, feed.gather(data, batch)['image'], train=False)
    return states, jax.tree.map(jnp.sum, outputs)  # of all outputs: XLA leaves out what nobody reads

  return make_epochs(step, (), teacher_variables, feed, teacher_config, replicas, flags)


def make_teacher(config: ml_collections.ConfigDict, image_shape: tuple[int, ...]) -> tuple[Network, Any]:
  """Makes a teacher and its initial variables: the time of a step does not depend on their values."""
  network = make_network(config)
  return network, network.init(jax.random.key(0), image_shape)


def make_epochs(
  step: Callable,
  states: tuple[step_lib.TrainState, ...],
  teacher_variables: Any,
  feed: feeds.Feed,
  config: ml_collections.ConfigDict,
  replicas: Replicas,
  flags: argparse.Namespace,
) -> Callable[[], None]:
  """Makes a function that runs the next epoch of a step, as training does, and waits for its metrics."""
  states, teacher_variables = replicas.replicate((states, teacher_variables))
  compiled_loop = step_lib.compile_train_loop(step, replicas)
  epochs = itertools.count()

  def train_loop(states, data, batches):
    return compiled_loop(states, teacher_variables, data, batches)

  def run():
    nonlocal states
    dispatches = feed.epoch(0, next(epochs), flags.batch, steps_per_dispatch=config.steps_per_dispatch)
    states = run_epoch(train_loop, states, feed.data, dispatches, receive=replicas.fetch)

  return run


def compare_speeds(choice: str, counterpart: str, times: dict[str, list[float]], images: int) -> dict:
  """Compares a choice with its counterpart.

  Args:
    choice: its name.
    counterpart: the name of what it is compared with.
    times: seconds of each epoch by name.
    images: in an epoch.

  Returns:
    A row: median, lowest and highest images a second of both, and the ratio of the medians.
  """
  speeds = {name: [images / seconds for seconds in times[name]] for name in (choice, counterpart)}
  medians = {name: statistics.median(samples) for name, samples in speeds.items()}
  return {
    'choice': choice,
    'counterpart': counterpart,
    'images_per_second': medians,
    'lowest': {name: min(samples) for name, samples in speeds.items()},
    'highest': {name: max(samples) for name, samples in speeds.items()},
    'ratio': medians[choice] / medians[counterpart],
  }


def sharing_gains(times: dict[str, list[float]], students: int) -> dict[str, float]:
  """Computes what students save in one run, in percent of the time of the runs one after the other.

  Args:
    times: seconds of each epoch by name.
    students: how many there are.

  Returns:
    The percent that one run saves ('saved'), that the teacher's forward passes take ('teacher'), and that those passes
    take which one run is spared ('spared').
  """
  together, in_sequence, teacher = (statistics.median(times[name]) for name in (TOGETHER, IN_SEQUENCE, FORWARD))
  return {
    'saved': 100 * (1 - together / in_sequence),
    'teacher': 100 * students * teacher / in_sequence,
    'spared': 100 * (students - 1) * teacher / in_sequence,
  }


def print_rows(rows: list[dict]) -> None:
  """Prints a line for each choice, with its counterpart and the ratio."""
  print(f'{"":<24} images/s {"lowest to highest":>19}         {"":<24} images/s {"lowest to highest":>19} {"ratio":>8}')
  for row in rows:
    sides = [
      f'{name:<24} {row["images_per_second"][name]:>8.1f} '
      + f'{row["lowest"][name]:.1f} to {row["highest"][name]:.1f}'.rjust(19)
      for name in (row['choice'], row['counterpart'])
    ]
    print(f'{sides[0]}  beside {sides[1]} {row["ratio"]:>8.3f}')


if __name__ == '__main__':
  main()
