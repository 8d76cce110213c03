"""Graphs beside the networks that they are of, files in their own runtimes, and the command as a user runs it."""

import collections
import json
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export
from jax.extend import core
from tests.test_attention import save

from moonshine_jax.configs import digits
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError
from moonshine_jax.export import exporter, graph, onnx, stablehlo, tflite
from moonshine_jax.models.network import Network
from moonshine_jax.models.wide_resnet import WideResNet

MIXED = WideResNet(10, 1, ('S', 'G(N/8)', 'BG(2,M)'), 10)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)


def network_of(model):
  """A network of a model, and variables under which no normalisation is the identity."""
  network = Network(model, (120.0, 110.0, 100.0), (60.0, 61.0, 62.0))
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
  variables = jax.tree.map(
    lambda leaf: (rng.uniform(0.5, 1.5, leaf.shape) if leaf.ndim == 1 else rng.normal(0, 0.2, leaf.shape)).astype(
      leaf.dtype
    ),
    shapes,
  )
  return network, variables


def images_of(batch):
  return jax.ShapeDtypeStruct((batch, *IMAGES.shape[1:]), jnp.uint8)


def assert_same(network, variables, formulation, tolerance=1e-5):
  """The graph's logits are the network's. Returns its operations."""
  traced = graph.trace(network, variables, images_of(len(IMAGES)), formulation)
  ours, _ = jax.jit(lambda images: network(variables, images, train=False))(IMAGES)
  (theirs,) = jax.jit(core.jaxpr_as_fun(traced))(IMAGES)
  assert theirs.dtype == jnp.float32
  np.testing.assert_allclose(theirs, ours, atol=tolerance * np.abs(ours).max())
  return graph.operations(traced)


@pytest.mark.parametrize('formulation', ['grouped', 'dense', 'blocks'])
def test_a_graph_computes_what_the_network_does(formulation):
  operations = assert_same(*network_of(MIXED), formulation)
  assert operations['sub'] == operations['div'] == operations['rsqrt'] == 0
  # BN: 1 before the first convolution of each of the 3 blocks and 1 at the end read sums that others read too; those
  # between the convolutions of a block become kernels and biases. Beside these the images' and the pool's.
  assert operations['mul'] == 3 + 1 + 2
  assert operations['grouped'] == (3 if formulation == 'grouped' else 0)
  # The stem; 2, 4 and 3 in the blocks; 2 shortcuts. Of the grouped ones, those of 32 channels become 2 blocks of 16.
  convolutions = 1 + 2 + 4 + 3 + 2 + (2 if formulation == 'blocks' else 0)
  assert operations['conv_general_dilated'] + operations['grouped'] == convolutions


class Foreign(nn.Module):
  """What a user's own network may have in it."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images, train=False):
    def norm(x):
      return nn.BatchNorm(use_running_average=not train, dtype=self.dtype)(x)

    x = nn.Conv(8, (3, 3), dtype=self.dtype)(images)  # with a bias
    x = nn.relu(norm(x))  # folded
    x = nn.Conv(8, (3, 3), strides=2, feature_group_count=2, use_bias=False, dtype=self.dtype)(x)
    y = 1 - norm(x) / 2  # not folded, since x is read again
    x = nn.max_pool(jax.checkpoint(jax.nn.silu)(y + x), (2, 2), (2, 2))
    x = norm(x)  # of no convolution
    return nn.Dense(5, dtype=self.dtype)(x.mean((1, 2))).astype(jnp.float32), (x,)


def test_a_network_of_others_modules():
  operations = assert_same(*network_of(Foreign()), 'grouped')
  assert (operations['conv_general_dilated'], operations['grouped']) == (1, 1)
  assert operations['mul'] == 1 + 1 + 1 + 1 + 1  # images; y; SiLU's own; the last BN; the pool


def test_a_network_in_bfloat16_becomes_one_in_float32():
  network, variables = network_of(Foreign(jnp.bfloat16))
  assert_same(network, variables, 'grouped', 0.05)
  traced = graph.trace(network, variables, images_of(1), 'grouped')
  assert not any(var.aval.dtype == jnp.bfloat16 for eqn in traced.jaxpr.eqns for var in eqn.outvars)
  # All of it in float32, as if it had been from the start.
  assert assert_same(network_of(Foreign())[0], variables, 'grouped') == graph.operations(traced)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A teacher and a student of `digits`."""
  folder = tmp_path_factory.mktemp('export')
  for name, block, teacher in (('teacher', 'S', ''), ('student', 'G(N/8)', folder / 'teacher')):
    config = digits.get_config()
    config.model.block, config.distill.teacher = block, str(teacher)
    (folder / name).mkdir()
    save(folder / name, config, Facts((8, 8, 1), 10, (78.0,), (95.0,)))
  return folder


def run_command(*flags):
  return subprocess.run([sys.executable, '-m', 'moonshine_jax.export', *flags], capture_output=True, text=True)


def skip_without(runtime):
  for name in runtime.MODULES:
    pytest.importorskip(name)


def test_stablehlo(folder, tmp_path):
  skip_without(stablehlo)
  path = tmp_path / 'student.stablehlo'
  process = run_command(f'--workdir={folder}/student', '--format=stablehlo', f'--out={path}', '--json')
  assert process.returncode == 0, process.stderr
  result = json.loads(process.stdout)
  assert [row['network'] for row in result['rows']] == ['WRN-10-1 S', 'WRN-10-1 G(N/8)']
  assert result['files'] == [str(path)] and result['environment']['jax']
  row = result['rows'][1]
  assert row['bytes'] == path.stat().st_size
  assert row['difference'] <= 1e-5 * row['largest_logit'] and row['agreeing'] == 1
  assert row['beside_teacher'] == row['latency'] / result['rows'][0]['latency']
  # In any number, without this package, on the platforms that it says.
  exported = jax_export.deserialize(bytearray(path.read_bytes()))
  assert exported.platforms == ('cpu', 'cuda', 'tpu')
  student = exporter.read(f'{folder}/student', None, calibrates=True)
  images = student.test.images[:5]
  (logits,) = exported.call(images)
  np.testing.assert_allclose(logits, student.network(student.variables, images, train=False)[0], rtol=1e-4)
  assert len(student.calibration) == 256 and student.calibration.dtype == np.uint8


@pytest.mark.parametrize(
  ('milliseconds', 'chosen'),
  [((1.0, 1.04, 1.03), 'small'), ((1.04, 1.0, 1.02), 'small'), ((1.06, 1.04, 1.0), 'large'), ((1.2, 1.1, 1.0), 'huge')],
)
def test_of_formulations_that_are_as_fast_the_smallest_file_is_written(milliseconds, chosen):
  sizes = {'small': 10, 'large': 100, 'huge': 1000}
  assert exporter.choose(dict(zip(sizes, milliseconds, strict=True)), sizes) == chosen


def test_a_file_that_differs_is_refused(folder, monkeypatch):
  skip_without(stablehlo)
  student = exporter.read(f'{folder}/student', None, calibrates=False)
  load = stablehlo.load
  monkeypatch.setattr(stablehlo, 'load', lambda content: lambda images: load(content)(images) + 1)
  with pytest.raises(UserError, match='student: exported, its logits differ by 1, where the largest is .* nothing is'):
    exporter.make(student, 'float32', stablehlo)


@pytest.mark.parametrize('runtime', [onnx, tflite], ids=['onnx', 'tflite'])
def test_other_runtimes(folder, tmp_path, runtime):
  skip_without(runtime)
  path = tmp_path / f'student{runtime.SUFFIX}'
  name = runtime.__name__.rpartition('.')[2]
  process = run_command(
    f'--workdir={folder}/student', f'--format={name}', f'--out={path}', '--int8', '--json', '--examples=50'
  )
  assert process.returncode == 0, process.stderr
  teacher, student, int8 = json.loads(process.stdout)['rows']
  assert (teacher['network'], student['numbers'], int8['numbers']) == ('WRN-10-1 S', 'float32', 'int8')
  assert set(student['formulations']) == set(runtime.FORMULATIONS) and not teacher['formulations']
  assert student['difference'] <= 1e-5 * student['largest_logit']
  assert int8['bytes'] == path.stat().st_size < student['bytes']


def test_the_operations_of_an_onnx_file():
  skip_without(onnx)
  import onnx as onnx_library

  (batch,) = jax_export.symbolic_shape('batch')
  model = onnx_library.load_from_string(onnx.convert(graph.trace(*network_of(MIXED), images_of(batch), 'grouped')))
  nodes = collections.Counter((node.domain, node.op_type) for node in model.graph.node)
  # Biases are inputs of the convolutions; additions are those of the BNs that stay, of the 3 blocks, of the images and
  # of the last layer. One transposition for the input, and one for the pool.
  assert nodes == {
    ('', 'Cast'): 1,
    ('', 'Conv'): 12,
    ('', 'Relu'): 10,
    ('', 'Mul'): 6,
    ('', 'Add'): 4 + 3 + 1 + 1,
    ('', 'Transpose'): 2,
    ('', 'ReduceSum'): 1,
    ('', 'Gemm'): 1,
  }
