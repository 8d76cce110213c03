"""How far a sweep is, and the time that it has to go."""

import datetime
import time
from pathlib import Path

import ml_collections

from moonshine_jax import config as config_lib
from moonshine_jax.cost import counting
from moonshine_jax.data import sources
from moonshine_jax.models.factory import create_model, is_user
from moonshine_jax.workdir import metrics

IMAGE_SHAPE, NUM_CLASSES = (32, 32, 3), 10  # CIFAR-10's, of which the proportions of multiply-adds hardly depend


class Progress:
  """Of networks by workdir, the teacher's first, as their records have it; the speed is that since it was made."""

  def __init__(self, networks: dict[Path, ml_collections.ConfigDict], together: int):
    teacher = next(iter(networks.values()))
    self._epochs = {workdir: config.epochs for workdir, config in networks.items()}
    self._work = {workdir: work(config, teacher, together) for workdir, config in networks.items()}
    self._total = sum(self._work.values())
    self._begin, self._begun = time.monotonic(), self._done()[1]

  def _done(self) -> tuple[int, float]:
    """The networks that are done, and the work."""
    shares = {}
    for workdir, epochs in self._epochs.items():
      records = metrics.read(workdir)
      shares[workdir] = records[-1]['epoch'] / epochs if records else 0.0
    return sum(share == 1 for share in shares.values()), sum(self._work[each] * shares[each] for each in shares)

  def line(self) -> str:
    """In words: networks done, share of the work, time gone, time to go."""
    networks, done = self._done()
    gone = time.monotonic() - self._begin
    share = 100 * done / self._total
    line = f'{networks} of {len(self._work)} networks, {share:.1f}% of the multiply-adds, {_hms(gone)} gone'
    if done > self._begun:
      line += f', {_hms(gone * (self._total - done) / (done - self._begun))} to go'
    return line


def work(config: ml_collections.ConfigDict, teacher: ml_collections.ConfigDict, together: int) -> float:
  """Multiply-adds of a network's training, for each image of an epoch.

  The forward pass counts three times, since the gradients of inputs and weights take as many each; the teacher's once,
  divided among those that learn together.
  """
  distilled = config_lib.regime(config) != 'none'
  return config.epochs * (3 * _multiply_adds(config) + distilled * _multiply_adds(teacher) / together)


def _multiply_adds(config):
  # A user's own network may take no other images than its data's.
  shape = sources.open_source(config.data).image_shape if is_user(config.model) else IMAGE_SHAPE
  return counting.count_cost(create_model(config.model, NUM_CLASSES, image_shape=shape), shape).multiply_adds or 1


def _hms(seconds):
  return str(datetime.timedelta(seconds=round(seconds)))
