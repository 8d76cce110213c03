"""What the tests of every export format share."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export

from moonshine_jax.export import exporter, graph
from moonshine_jax.models.network import Network
from moonshine_jax.models.wide_resnet import WideResNet
from tests.helpers import run_processes

IMAGE_SHAPE = (8, 8, 3)
MIXED_BLOCKS = WideResNet(10, 1, ('S', 'G(N/8)', 'BG(2,M)'), 10)


def random_network(model):
  """Returns a network of a model, and variables under which no normalisation is the identity."""
  network = Network(model, (120.0, 110.0, 100.0), (60.0, 61.0, 62.0))
  rng = np.random.default_rng(1)
  variables = jax.tree.map(
    lambda leaf: (rng.uniform(0.5, 1.5, leaf.shape) if leaf.ndim == 1 else rng.normal(0, 0.2, leaf.shape)).astype(
      leaf.dtype
    ),
    network.shapes(IMAGE_SHAPE),
  )
  return network, variables


def describe_images(batch):
  """Returns the shape and dtype of a batch of images; the batch may be symbolic."""
  return jax.ShapeDtypeStruct((batch, *IMAGE_SHAPE), jnp.uint8)


def skip_without(file_format):
  """Skips a test where a module that the format needs is not installed."""
  for name in file_format.MODULES:
    pytest.importorskip(name)


def run_command(folder, *flags):
  """Runs the export command as a user does; its output is kept in a folder."""
  return run_processes.run_module(folder, 'moonshine_jax.export', *flags)


def assert_exports_float32_and_int8(runs, path, file_format, name):
  """The command writes a student in 8 bits, beside its teacher, after it has tried every formulation."""
  process = run_command(
    path.parent, f'--workdir={runs}/student', f'--format={name}', f'--out={path}', '--int8', '--json', '--examples=50'
  )
  assert process.returncode == 0, process.stderr
  teacher, student, int8 = json.loads(process.stdout)['rows']
  assert (teacher['network'], student['numbers'], int8['numbers']) == ('WRN-10-1 S', 'float32', 'int8')
  assert set(student['formulations']) == set(file_format.FORMULATIONS) and not teacher['formulations']
  assert student['difference'] <= 1e-5 * student['largest_logit']
  assert int8['bytes'] == path.stat().st_size
  # In one formulation the file is smaller; which one the command writes is a matter of latencies.
  reference = exporter.read_reference(f'{runs}/student', None, calibrates=True)
  (batch,) = jax_export.symbolic_shape('batch') if file_format.SYMBOLIC_BATCH else (1,)
  images = jax.ShapeDtypeStruct((batch, 8, 8, 1), jnp.uint8)
  traced = graph.trace(reference.network, reference.variables, images, 'grouped')
  assert len(file_format.convert(traced, reference.calibration)) < len(file_format.convert(traced, None))
