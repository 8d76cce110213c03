"""Several devices on one CPU for the data-parallel tests, and a small data set as TFDS prepares it."""

import contextlib
import gc
import io
import os
import shutil
import tempfile

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from moonshine_jax.configs import digits
from moonshine_jax.training import loop

jax.config.update('jax_num_cpu_devices', 8)

# Tiny networks run for milliseconds and compile for seconds: without optimisations they compile in two thirds of the
# time, and by XLA's older emitters, which jaxlib has until 0.10, in less than a third.
os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = 'true'  # the processes that tests start compile so too
jax.config.update('jax_disable_most_optimizations', True)
if jax.__version_info__ < (0, 11):
  os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + ' --xla_cpu_use_fusion_emitters=false'

STATE = tempfile.TemporaryDirectory()  # of what the tests name, in place of what the user did
os.environ['XDG_STATE_HOME'] = STATE.name

# What is compiled is kept to the end of the session, for its workers and for the processes that tests start.
COMPILED = tempfile.TemporaryDirectory()
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', COMPILED.name)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')
jax.config.update('jax_compilation_cache_dir', os.environ['JAX_COMPILATION_CACHE_DIR'])
jax.config.update(
  'jax_persistent_cache_min_compile_time_secs', float(os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'])
)
# JAX does not write a file at once: a process that reads it meanwhile compiles anew, and warns.
os.environ['PYTHONWARNINGS'] = 'ignore:Error reading persistent compilation cache entry'

# The files that take longest, in the order of their times.
LONGEST = (
  'training/test_interruptions.py',
  'runtime/test_processes.py',
  'training/test_loop.py',
  'training/test_step.py',
  'training/test_blockwise.py',
  'docs/test_commands.py',
  'surgery/test_capture.py',
  'models/test_wide_resnet.py',
  'models/test_user.py',
  'surgery/test_replace.py',
  'docs/test_tutorial.py',
  'search/test_run.py',
  'test_main.py',
  'benchmarks/test_search.py',
  'docs/test_readme.py',
  'training/test_recipes.py',
  'training/test_imagenet.py',
  'export/test_stablehlo.py',
  'ops/test_grouped_conv.py',
)


def pytest_collection_finish():
  """Collects garbage less often, and not among what is imported: tracing networks makes many objects."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(50_000, 20, 20)


def pytest_collection_modifyitems(items):
  """Puts the longest files first, so that two workers end together."""
  items.sort(key=lambda item: next((i for i, name in enumerate(LONGEST) if item.path.match(name)), len(LONGEST)))


def pytest_addoption(parser):
  parser.addoption('--kills', type=int, default=2, help='how often each run of test_interruptions.py is stopped')


@pytest.fixture(scope='session')
def kills(request):
  """How often a run is stopped on its way."""
  return request.config.getoption('kills')


class TinyImages(tfds.core.GeneratorBasedBuilder):
  """40 training and 13 test images of 8x8 RGB noise in 3 classes. Encoded here, since TFDS encodes with TensorFlow."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {'image': tfds.features.Image(shape=(8, 8, 3)), 'label': tfds.features.ClassLabel(num_classes=3)}
      ),
    )

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples(0, 40), 'test': self._generate_examples(1, 13)}

  def _generate_examples(self, seed, examples):
    images = np.random.default_rng(seed).integers(0, 256, (examples, 8, 8, 3), np.uint8)
    for i, image in enumerate(images):
      file = io.BytesIO()
      Image.fromarray(image).save(file, 'PNG')
      yield i, {'image': file.getvalue(), 'label': i % 3}


@pytest.fixture(scope='session')
def tiny_images(tmp_path_factory):
  """The data_dir in which the data set `tiny_images` is prepared as array_record."""
  data_dir = tmp_path_factory.mktemp('tfds')
  TinyImages(data_dir=data_dir, file_format='array_record').download_and_prepare()
  return str(data_dir)


class VariedImages(tfds.core.GeneratorBasedBuilder):
  """40 training and 13 test JPEGs of 30 to 90 pixels on a side, smooth, in 3 classes."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {'image': tfds.features.Image(shape=(None, None, 3)), 'label': tfds.features.ClassLabel(num_classes=3)}
      ),
    )

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples(0, 40), 'test': self._generate_examples(1, 13)}

  def _generate_examples(self, seed, examples):
    rng = np.random.default_rng(seed)
    for i in range(examples):
      small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
      file = io.BytesIO()
      small.resize(rng.integers(30, 91, 2).tolist(), Image.Resampling.BICUBIC).save(file, 'JPEG', quality=95)
      yield i, {'image': file.getvalue(), 'label': i % 3}


@pytest.fixture(scope='session')
def varied_images(tmp_path_factory):
  """The data_dir in which the data set `varied_images` is prepared as array_record."""
  data_dir = tmp_path_factory.mktemp('tfds')
  VariedImages(data_dir=data_dir, file_format='array_record').download_and_prepare()
  return str(data_dir)


def small_config(data_dir):
  """A run of seconds: WRN-10-1 on `tiny_images`."""
  config = digits.get_config()
  config.batch_size = 16
  config.epochs = 2
  config.checkpoint_every = 1
  config.model.depth = 10
  config.data.name = 'tiny_images'
  config.data.data_dir = data_dir
  config.optimizer.decay_epochs = (1,)
  config.blockwise.calibration_steps = 4
  return config


@pytest.fixture
def config(tiny_images):
  """`small_config`, a test's own."""
  return small_config(tiny_images)


@pytest.fixture
def optimised():
  """Programs compiled as users' are: different ones round alike then, where they compute the same."""
  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', True)


@pytest.fixture(scope='module')
def smooth():
  """A smooth activation in place of ReLU: rounding flips ReLU's derivative at 0, which moves gradients by 1e-2."""
  with smooth_activation():
    yield


@contextlib.contextmanager
def smooth_activation():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax.nn, 'relu', jax.nn.silu)
    yield


@pytest.fixture(scope='module')
def small_runs(smooth):
  """Runs of one device, which compile in half the time; several are compared with one in test_steps."""
  with one_device():
    yield


@contextlib.contextmanager
def one_device():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, 'local_devices', lambda: jax.devices()[:1])
    yield


@pytest.fixture(scope='session')
def trained(tiny_images, tmp_path_factory):
  """A run to its end, smooth and on one device, in a workdir that was empty, and its last record."""
  workdir = tmp_path_factory.mktemp('trained')
  with one_device(), smooth_activation():
    (record,) = loop.train_and_evaluate(small_config(tiny_images), workdir).values()
  return workdir, record


@pytest.fixture
def teacher(trained, tmp_path):
  """A copy of it, a test's own."""
  return str(shutil.copytree(trained[0], tmp_path / 'teacher')), trained[1]
