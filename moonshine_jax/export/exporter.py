"""Exports a trained network: converts it to a file of another runtime, verifies the file and measures its latency.

Each file format is a module of this package that has what `file_format.Format` lists: `onnx`, `stablehlo`, `tflite`.
"""

import collections
import dataclasses
import functools
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax import export as jax_export

from moonshine_jax.cost import timing
from moonshine_jax.data import splits
from moonshine_jax.errors import UserError, warn
from moonshine_jax.export import graph
from moonshine_jax.export.file_format import Format, ImagesToLogits
from moonshine_jax.models.network import Network
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.workdir.trained import Trained

VERIFIED_IMAGES = 256  # test images on which logits are compared
CALIBRATION_IMAGES = 256  # training images from which the ranges of activations are taken, for 8 bits
REPEATS = 51  # times that a latency is measured
LATENCY_MARGIN = 1.05  # times the fastest formulation's latency: what is no slower differs by noise
TEST_BATCH = 64  # images in a call, where the test error is measured
# The largest difference of logits that is let pass, as a part of the largest logit, by the dtype of the training: an
# exported network computes in float32.
TOLERANCE = {'float32': 1e-3, 'bfloat16': 5e-2}


@dataclasses.dataclass(frozen=True)
class Reference:
  """The network of a workdir and the images on which its exported files are calibrated and compared with it.

  Attributes:
    workdir: the folder of the training run.
    network: the network in JAX.
    variables: its trained variables.
    config: the config of the run.
    test: the test split.
    calibration: uint8 training images (images, height, width, channels) from which the ranges of activations are
      taken, for 8 bits; None where nothing is quantised.
  """

  workdir: str
  network: Network
  variables: Any
  config: ml_collections.ConfigDict
  test: splits.Split | splits.CroppedSplit
  calibration: np.ndarray | None

  @functools.cached_property
  def images(self) -> np.ndarray:
    """The first VERIFIED_IMAGES test images, uint8 (images, height, width, channels)."""
    return self.test.take(np.arange(min(VERIFIED_IMAGES, len(self.test))))[0]

  @functools.cached_property
  def logits(self) -> np.ndarray:
    """The logits (images, classes) that the network itself computes for `images`."""
    one = Replicas(jax.local_devices()[:1])
    forward = one.compile(lambda variables, images: self.network(variables, images, train=False)[0])
    return np.asarray(forward(self.variables, self.images))


@dataclasses.dataclass
class ExportedNetwork:
  """A network as the content of a file, compared with the reference.

  Attributes:
    reference: the network that was exported.
    numbers: 'float32' or 'int8'.
    formulations: for each formulation of the grouped convolutions that was tried, the median latency for one image in
      seconds; empty where there is no choice.
    formulation: the one in the file; see `choose_formulation`.
    operations: how often each operation is in the graph, by JAX's names.
    content: of the file.
    run: the loaded file, a function from images to logits.
    difference: the largest difference between the file's and the network's logits, on the first VERIFIED_IMAGES test
      images.
    largest_logit: of the network, on these images.
    agreeing: the part of these images for which both predict the same class.
  """

  reference: Reference
  numbers: str
  formulations: dict[str, float]
  formulation: str
  operations: dict[str, int]
  content: bytes
  run: ImagesToLogits
  difference: float
  largest_logit: float
  agreeing: float


def read_reference(
  workdir: str, data_dir: str | None, calibrates: bool, trust_code: bool = False, data: str | None = None
) -> Reference:
  """Reads the network of a workdir and its data.

  Args:
    workdir: of a training run; or what stands for one, as `open_workdir` takes it.
    data_dir: where the data is, in place of the config's `data.data_dir`; None for the config's.
    calibrates: whether calibration images are read too.
    trust_code: whether user-defined functions that the workdir names are loaded, whatever they are: see `Trained.open`.
    data: another name of the same data, in place of the config's `data.name`; None for the config's.

  Returns:
    The network, with the images to compare its files on.

  Raises:
    UserError: where there is no checkpoint or no data.
  """
  trained = Trained.open(workdir, trust_code).with_data(data, data_dir)
  source, config = trained.source(), trained.config
  calibration = None
  if calibrates:
    train = source.read(config.data.train_split)
    # Drawn at random: some data sets are sorted by class.
    index = np.random.default_rng(0).permutation(len(train))[:CALIBRATION_IMAGES]
    calibration, _ = train.take(np.sort(index))
  return Reference(
    workdir, trained.network, trained.variables, config, source.read(config.data.test_split), calibration
  )


def export_network(reference: Reference, numbers: str, file_format: Format) -> ExportedNetwork:
  """Converts a network, loads the result in its runtime and compares the logits.

  Args:
    reference: the network.
    numbers: 'float32', or 'int8' for weights and activations of 8 bits.
    file_format: the module of a format.

  Returns:
    The exported network, its grouped convolutions in the formulation that `choose_formulation` takes.

  Raises:
    UserError: where the network cannot be converted, where the runtime cannot load or run the file, and where the
      logits of a float32 file differ by more than TOLERANCE of the largest.
  """
  contents, functions, operations = _convert_formulations(reference, numbers, file_format)
  medians, chosen = {}, next(iter(contents))
  if len(contents) > 1:
    seconds = measure_latencies({name: (run, reference.images[:1]) for name, run in functions.items()})
    medians = {formulation: statistics.median(times) for formulation, times in seconds.items()}
    chosen = choose_formulation(medians, {name: len(content) for name, content in contents.items()})
  exported = ExportedNetwork(
    reference,
    numbers,
    medians,
    chosen,
    operations[chosen],
    contents[chosen],
    functions[chosen],
    **compare_logits(reference.logits, functions[chosen](reference.images)),
  )
  if numbers == 'float32':
    _check_difference(exported)
  return exported


def _convert_formulations(
  reference: Reference, numbers: str, file_format: Format
) -> tuple[dict[str, bytes], dict[str, ImagesToLogits], dict[str, collections.Counter[str]]]:
  """Converts a network in each formulation of its grouped convolutions, and loads it.

  Returns:
    By formulation: the contents, the loaded files, and how often each operation is in the graph.
  """
  (batch,) = jax_export.symbolic_shape('batch') if file_format.SYMBOLIC_BATCH else (1,)
  images = jax.ShapeDtypeStruct((batch, *reference.images.shape[1:]), jnp.uint8)
  calibration = reference.calibration if numbers == 'int8' else None
  contents, functions, operations = {}, {}, {}
  for formulation in file_format.FORMULATIONS:
    is_first = formulation == file_format.FORMULATIONS[0]
    try:
      traced = graph.trace(reference.network, reference.variables, images, formulation)
      content = file_format.convert(traced, calibration)
      run = file_format.load(content)
      run(reference.images[:1])
    except Exception as error:  # of any type: it is up to a converter and to a runtime what they raise
      reason = _reason(reference, file_format, error)
      if is_first:
        raise UserError(reason) from error
      warn(f'{reason}: left out: grouped convolutions as {formulation}')
      continue
    contents[formulation], functions[formulation] = content, _with_one_line(run, reference, file_format)
    operations[formulation] = graph.count_operations(traced)
    if is_first and not operations[formulation]['grouped']:
      break  # without grouped convolutions there is one formulation
  return contents, functions, operations


def _with_one_line(run: ImagesToLogits, reference: Reference, file_format: Format) -> ImagesToLogits:
  """Returns a loaded file that raises UserError for whatever its runtime raises."""

  def run_or_tell(images: np.ndarray) -> np.ndarray:
    try:
      return run(images)
    except Exception as error:
      raise UserError(_reason(reference, file_format, error)) from error

  return run_or_tell


def _reason(reference: Reference, file_format: Format, error: Exception) -> str:
  """Returns why there is no file."""
  what = f'cannot be written as {file_format.SUFFIX} and run'
  return f'{reference.workdir}: {what}: {type(error).__name__}: {" ".join(str(error).split())[:200]}'


def _check_difference(exported: ExportedNetwork) -> None:
  """Raises UserError where the logits differ by more than the TOLERANCE for the training's dtype, or are not finite."""
  allowed = TOLERANCE[exported.reference.config.model.dtype] * exported.largest_logit
  if not exported.difference <= allowed:
    raise UserError(
      f'{exported.reference.workdir}: exported, its logits differ by {exported.difference:.2g}, where the largest is '
      f'{exported.largest_logit:.2g}: expected at most {allowed:.2g}: nothing is written'
    )


def choose_formulation(seconds: dict[str, float], sizes: dict[str, int]) -> str:
  """Returns the formulation with the smallest file, of those within LATENCY_MARGIN of the fastest.

  Args:
    seconds: latency for one image by formulation.
    sizes: bytes of the file by formulation.

  Returns:
    The name of a formulation.
  """
  fast_enough = [name for name, latency in seconds.items() if latency <= LATENCY_MARGIN * min(seconds.values())]
  return min(fast_enough, key=lambda name: sizes[name])


def compare_logits(reference: np.ndarray, exported: np.ndarray) -> dict[str, float]:
  """Compares logits of a file with those of the network.

  Args:
    reference: logits (images, classes) of the network.
    exported: logits (images, classes) of the file.

  Returns:
    'difference', 'largest_logit' and 'agreeing', as `ExportedNetwork` has them.
  """
  return {
    'difference': float(np.abs(reference - exported).max()),
    'largest_logit': float(np.abs(reference).max()),
    'agreeing': float((reference.argmax(-1) == exported.argmax(-1)).mean()),
  }


def measure_test_error(exported: ExportedNetwork, examples: int | None) -> float:
  """Measures the top-1 error of an exported network on the test split.

  Args:
    exported: the network.
    examples: how many images are taken, from the first on; None for the whole split.

  Returns:
    The error in percent.
  """
  test = exported.reference.test
  index = np.arange(len(test))[:examples]
  wrong = 0
  for start in range(0, len(index), TEST_BATCH):
    images, labels = test.take(index[start : start + TEST_BATCH])
    wrong += int((exported.run(images).argmax(-1) != labels).sum())
  return 100 * wrong / len(index)


def measure_latencies(calls: dict[Any, tuple[ImagesToLogits, np.ndarray]]) -> dict[Any, list[float]]:
  """Measures how long functions take, all of them in turns.

  Args:
    calls: by name, a function and the images that it is called with.

  Returns:
    By name, the seconds of each of REPEATS calls.
  """
  return timing.time_in_turns({name: functools.partial(run, images) for name, (run, images) in calls.items()}, REPEATS)
