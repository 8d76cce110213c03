"""The progress of a sweep, and an estimate of the time to go."""

import datetime
import functools
import time
from collections.abc import Mapping
from pathlib import Path

import ml_collections

from moonshine_jax import config as config_lib
from moonshine_jax.cost import counting
from moonshine_jax.data import sources
from moonshine_jax.models.factory import create_model, is_user_defined
from moonshine_jax.workdir import metrics

# CIFAR-10's. Progress is a share of all multiply-adds, which hardly depends on the size of the images.
IMAGE_SHAPE, NUM_CLASSES = (32, 32, 3), 10


class SweepProgress:
  """Tells how far the networks of a sweep are, from the records in their workdirs.

  The speed, from which the time to go follows, is measured from when this object is made.
  """

  def __init__(self, networks: Mapping[Path, ml_collections.ConfigDict], teacher: int, together: int):
    """Counts the work of all networks.

    Args:
      networks: the config of each network that is trained, by its workdir.
      teacher: multiply-adds of a forward pass of the students' teacher on one image; 0 where they are not known.
      together: how many students learn in one process, from one forward pass of the teacher.
    """
    self._epochs = {workdir: config.epochs for workdir, config in networks.items()}
    self._work = {workdir: training_multiply_adds(config, teacher, together) for workdir, config in networks.items()}
    self._total_work = sum(self._work.values())
    self._start_time = time.monotonic()
    _, self._work_at_start = self._done()

  def _done(self) -> tuple[int, float]:
    """Returns how many networks are trained, and how much of the work is done."""
    shares = {}
    for workdir, epochs in self._epochs.items():
      records = metrics.read(workdir)
      shares[workdir] = records[-1]['epoch'] / epochs if records else 0.0
    return sum(share == 1 for share in shares.values()), sum(self._work[path] * share for path, share in shares.items())

  def line(self) -> str:
    """Returns a line for the user: networks trained, share of the work done, time gone, and time to go once known."""
    networks, work = self._done()
    seconds = time.monotonic() - self._start_time
    line = (
      f'{networks} of {len(self._work)} networks, {100 * work / self._total_work:.1f}% of the multiply-adds, '
      f'{_hms(seconds)} gone'
    )
    if work > self._work_at_start:
      seconds_to_go = seconds * (self._total_work - work) / (work - self._work_at_start)
      line += f', {_hms(seconds_to_go)} to go'
    return line


def training_multiply_adds(config: ml_collections.ConfigDict, teacher: int, together: int) -> float:
  """Returns the multiply-adds of training a network to its last epoch, divided by the number of training images.

  The network's forward pass counts three times, since the gradients with respect to its inputs and to its weights take
  as many multiply-adds each. A student's teacher counts once, divided among the students that share its forward pass.

  Args:
    config: of the network.
    teacher: multiply-adds of a forward pass of the teacher, which count where `config` distils from it.
    together: how many students share a forward pass of the teacher.

  Returns:
    Multiply-adds per training image.
  """
  distilled = config_lib.regime(config) != 'none'
  return config.epochs * (3 * multiply_adds(config) + distilled * teacher / together)


def multiply_adds(config: ml_collections.ConfigDict) -> int:
  """Returns the multiply-adds of a network's forward pass on one image; 1 for a network that has none."""
  # A user-defined network may take images of its data set's shape alone.
  shape = _image_shape(ml_collections.FrozenConfigDict(config.data)) if is_user_defined(config.model) else IMAGE_SHAPE
  return counting.count_cost(create_model(config.model, NUM_CLASSES, image_shape=shape), shape).multiply_adds or 1


@functools.cache  # a sweep has many networks of the same images
def _image_shape(data: ml_collections.FrozenConfigDict) -> tuple[int, ...]:
  return tuple(sources.open_source(data).image_shape)


def _hms(seconds: float) -> str:
  return str(datetime.timedelta(seconds=round(seconds)))
