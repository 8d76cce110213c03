"""Trained networks in other runtimes: written, loaded back, compared with the network, and timed.

A format is a module of this package: `convert` makes the content of a file from the `graph` of a network, `load` makes
a function of such a content, and capitals say what the format can do.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax import export as jax_export

from moonshine_jax.cost import timing
from moonshine_jax.data import sources, splits
from moonshine_jax.errors import UserError, warn
from moonshine_jax.export import graph
from moonshine_jax.models.network import Network
from moonshine_jax.workdir import checkpoint

VERIFIED = 256  # test images on which logits are compared
CALIBRATION = 256  # training images for which activations are quantised
REPEATS = 51  # times that a latency is measured
NEAR = 1.05  # times the fastest formulation's latency: what is no slower differs by noise
BATCH = 64  # images in a call, where the test error is measured
# The largest difference of logits that is let pass, as a part of the largest logit, by the dtype of the training: an
# exported network computes in float32.
TOLERANCE = {'float32': 1e-3, 'bfloat16': 5e-2}

Run = Callable[[np.ndarray], np.ndarray]  # uint8 images (batch, height, width, channels) to logits (batch, classes)


@dataclasses.dataclass(frozen=True)
class Trained:
  """The network of a workdir, its config and its data.

  Attributes:
    calibration: uint8 training images for which activations are quantised; None where nothing is quantised.
  """

  workdir: str
  network: Network
  variables: Any
  config: ml_collections.ConfigDict
  test: splits.Split | splits.CroppedSplit
  calibration: np.ndarray | None

  @functools.cached_property
  def images(self) -> np.ndarray:
    """The first VERIFIED test images, uint8 (images, height, width, channels)."""
    return self.test.take(np.arange(min(VERIFIED, len(self.test))))[0]

  @functools.cached_property
  def logits(self) -> np.ndarray:
    """Of these images, (images, classes), by the network itself."""
    forward = jax.jit(lambda variables, images: self.network(variables, images, train=False)[0])
    return np.asarray(forward(self.variables, self.images))


@dataclasses.dataclass
class Version:
  """A trained network as the content of a file, verified.

  Attributes:
    numbers: 'float32' or 'int8'.
    formulations: seconds for one image, medians, by the name of each formulation of its grouped convolutions that was
      tried; empty where there is no choice.
    formulation: the file's; see `choose`.
    operations: of the graph, by JAX's names.
    run: the content, loaded.
    difference: the largest of the logits from the network's, on the first VERIFIED test images.
    largest_logit: of the network, on these.
    agreeing: the part of these images for which it predicts what the network does.
  """

  trained: Trained
  numbers: str
  formulations: dict[str, float]
  formulation: str
  operations: dict[str, int]
  content: bytes
  run: Run
  difference: float
  largest_logit: float
  agreeing: float


def read(workdir: str, data_dir: str | None, calibrates: bool) -> Trained:
  """The network and the data of a workdir.

  Args:
    workdir: of a training run.
    data_dir: in place of the config's; None for the config's.
    calibrates: whether training images are wanted too.

  Raises:
    UserError: where there is no checkpoint or no data.
  """
  network, variables, metadata = checkpoint.Checkpoints(workdir).network()
  config, facts = metadata.config, metadata.facts
  if data_dir is not None:
    config.data.data_dir = data_dir
  source = sources.reopen_source(config.data, facts, workdir)
  calibration = None
  if calibrates:
    train = source.read(config.data.train_split)
    drawn = np.random.default_rng(0).permutation(len(train))[:CALIBRATION]  # some data sets are sorted by class
    calibration, _ = train.take(np.sort(drawn))
  return Trained(workdir, network, variables, config, source.read(config.data.test_split), calibration)


def make(trained: Trained, numbers: str, runtime: ModuleType) -> Version:
  """A trained network in a format, its grouped convolutions in the formulation that `choose` takes.

  Raises:
    UserError: where the logits of a float32 version differ by more than TOLERANCE of the largest.
  """
  (batch,) = jax_export.symbolic_shape('batch') if runtime.SYMBOLIC_BATCH else (1,)
  images = jax.ShapeDtypeStruct((batch, *trained.images.shape[1:]), jnp.uint8)
  calibration = trained.calibration if numbers == 'int8' else None
  contents, operations = {}, {}
  for formulation in runtime.FORMULATIONS:
    try:
      traced = graph.trace(trained.network, trained.variables, images, formulation)
      contents[formulation] = runtime.convert(traced, calibration)
    except Exception as error:  # whatever a converter makes of an operation that it does not know
      reason = f'{trained.workdir}: cannot be written as {runtime.SUFFIX}: {type(error).__name__}: {str(error)[:200]}'
      if formulation == runtime.FORMULATIONS[0]:
        raise UserError(reason) from error
      warn(f'{reason}: left out: grouped convolutions as {formulation}')
      continue
    operations[formulation] = graph.operations(traced)
    if formulation == runtime.FORMULATIONS[0] and not operations[formulation]['grouped']:
      break
  runs = {formulation: runtime.load(content) for formulation, content in contents.items()}
  medians = {}
  if len(runs) > 1:
    seconds = latencies({formulation: (run, trained.images[:1]) for formulation, run in runs.items()})
    medians = {formulation: statistics.median(each) for formulation, each in seconds.items()}
  chosen = choose(medians, {name: len(content) for name, content in contents.items()}) if medians else next(iter(runs))
  version = Version(
    trained,
    numbers,
    medians,
    chosen,
    operations[chosen],
    contents[chosen],
    runs[chosen],
    **compare(trained.logits, runs[chosen](trained.images)),
  )
  allowed = TOLERANCE[trained.config.model.dtype] * version.largest_logit
  if numbers == 'float32' and not version.difference <= allowed:
    raise UserError(
      f'{trained.workdir}: exported, its logits differ by {version.difference:.2g}, where the largest is '
      f'{version.largest_logit:.2g}: expected at most {allowed:.2g}: nothing is written'
    )
  return version


def choose(seconds: dict[str, float], sizes: dict[str, int]) -> str:
  """The formulation of the smallest file, of those within NEAR of the fastest for one image."""
  near = [name for name, each in seconds.items() if each <= NEAR * min(seconds.values())]
  return min(near, key=sizes.get)


def compare(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
  """'difference', 'largest_logit' and 'agreeing' of Version, from logits (images, classes)."""
  return {
    'difference': float(np.abs(ours - theirs).max()),
    'largest_logit': float(np.abs(ours).max()),
    'agreeing': float((ours.argmax(-1) == theirs.argmax(-1)).mean()),
  }


def error_of(version: Version, examples: int | None) -> float:
  """Top-1 error in percent on the test set, or on the first images of it."""
  test = version.trained.test
  index = np.arange(len(test))[:examples]
  wrong = 0
  for start in range(0, len(index), BATCH):
    images, labels = test.take(index[start : start + BATCH])
    wrong += int((version.run(images).argmax(-1) != labels).sum())
  return 100 * wrong / len(index)


def latencies(calls: dict[Any, tuple[Run, np.ndarray]]) -> dict[Any, list[float]]:
  """Seconds that each function takes for its images, in turns."""
  return timing.in_turns({name: functools.partial(run, images) for name, (run, images) in calls.items()}, REPEATS)
