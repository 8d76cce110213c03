"""Compares what this machine's accelerator computes with what its CPU computes.

  python -m benchmarks.correctness --json=correctness.json

Three things, each on the first device, by the project's rule for its platform, beside the CPU in float32 by XLA's own
convolutions:

  losses: every form of KD and of AT, value and gradient.
  convolutions: of two shapes of WRN-40-2, at one stride and at two, grouped and dense, with both gradients; by the rule
    and by XLA's own operation.
  steps: one train step of a student, by cross entropy, KD and AT together: its metrics, its update of the parameters
    (a relative L2 norm) and its BN statistics.

The error is the largest difference over the largest value, and the tolerances are stated: in float32 the device
computes at its highest precision; by default (TF32 on a GPU, bfloat16 on a TPU) and in bfloat16 a product has 8 to 11
bits.
Exits with 1 where an error is beyond its tolerance.
"""

import argparse
import concurrent.futures
import contextlib
import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.command import first_line, make_config, make_network, make_parser, write_json
from benchmarks.grouped_conv import Case, list_cases
from benchmarks.train_step import synthetic_batch
from moonshine_jax import losses
from moonshine_jax.data.feeds import ResidentFeed
from moonshine_jax.data.splits import Split
from moonshine_jax.models.wide_resnet import Architecture
from moonshine_jax.ops import grouped_conv
from moonshine_jax.ops.formulations import NHWC
from moonshine_jax.ops.platforms import lax_only
from moonshine_jax.runtime.cpu import available_cores
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.training import optimizer, terms
from moonshine_jax.training import step as step_lib

BLOCKS = ('S', 'S-2x2', 'G(2)', 'G(N/8)', 'G(N)', 'B(2)', 'BG(2,M/8)', 'BG(4,M)')
SHAPES = ((32, 32, 1), (64, 16, 2))  # channels, image size, stride
MOST_IMAGES = 8  # of a convolution: XLA's own grouped ones are slow on a CPU

# The precisions of a computation: JAX's setting and the dtype.
DEFAULT = 'float32, default'
PRECISIONS = {'float32': ('highest', 'float32'), DEFAULT: (None, 'float32'), 'bfloat16': (None, 'bfloat16')}
# What an error may be. The update in bfloat16 has passed through every layer twice; a wrong one has an error of 1.
TOLERANCES = {
  'loss': {'float32': 1e-4},
  'convolution': {'float32': 1e-4, DEFAULT: 2e-2, 'bfloat16': 2e-2},
  'metrics': {'float32': 1e-3, 'bfloat16': 2e-2},
  'update': {'float32': 2e-3, 'bfloat16': 0.3},
  'statistics': {'float32': 1e-3, 'bfloat16': 2e-2},
}


def main(arguments: list[str] | None = None) -> None:
  """Compares all, prints a line for each comparison, and exits with 1 where one is beyond its tolerance."""
  platforms = jax.config.jax_platforms
  if platforms and 'cpu' not in platforms.split(','):
    jax.config.update('jax_platforms', f'{platforms},cpu')
  parser = make_parser(
    __doc__,
    repeats=None,
    networks=[Architecture(10, 2, block) for block in BLOCKS],
    networks_help=f'WRN-10-2 of {", ".join(BLOCKS)}',
  )
  parser.add_argument('--batch', type=int, default=16, help='images (default: 16)')
  flags = parser.parse_args(arguments)
  device, rows = jax.local_devices()[0], []
  heading = ''.join(f' {precision:>17}' for precision in PRECISIONS)
  print(f'{device.device_kind} beside the CPU: {"error":<{49 - len(device.device_kind)}}{heading}')
  for row in compare_all(flags, device):
    rows.append(row)
    errors = ''.join(f' {row["errors"].get(precision, ""):>17}' for precision in PRECISIONS)
    print(f'{row["what"]:<12} {row["case"]:<54}{errors}{"  WRONG" * bool(row["wrong"])}', flush=True)
    write_json(flags.json, flags, rows, device=device.device_kind, tolerances=TOLERANCES)
  wrong = [f'{row["what"]} {row["case"]} in {precision}' for row in rows for precision in row['wrong']]
  print(f'{sum(not row["wrong"] for row in rows)} of {len(rows)} right: {json.dumps(TOLERANCES)}')
  if wrong:
    print(f'error: beyond their tolerance: {"; ".join(wrong)}', file=sys.stderr)
    sys.exit(1)


def compare_all(flags: argparse.Namespace, device: jax.Device) -> Iterator[dict]:
  """Yields a row for each comparison; as many are made at once as there are cores, since compiling takes the time."""
  tasks: list[tuple[str, Callable[[], list[dict]]]]
  tasks = [('losses', functools.partial(compare_losses, flags, device))]
  tasks += [(str(case), functools.partial(compare_convolution, case, flags, device)) for case in convolution_cases()]
  tasks += [(str(network), functools.partial(compare_steps, network, flags, device)) for network in flags.networks]
  with concurrent.futures.ThreadPoolExecutor(available_cores()) as pool:
    futures = [(name, pool.submit(task)) for name, task in tasks]
    for name, future in futures:
      try:
        yield from future.result()
      except RuntimeError as error:  # of XLA, and of the device: the others go on
        yield {'what': 'failure', 'case': name, 'errors': {}, 'wrong': [first_line(error)]}


def make_row(what: str, case: str, errors: dict[str, float]) -> dict:
  """Makes the row of a comparison from the errors by precision; one that is no number is beyond every tolerance."""
  return {
    'what': what,
    'case': case,
    'errors': {name: float(f'{error:.1e}') if np.isfinite(error) else 'NaN' for name, error in errors.items()},
    'wrong': [precision for precision, error in errors.items() if not error <= TOLERANCES[what][precision]],
  }


def largest_error(results: Any, expected: Any) -> float:
  """Returns the largest difference of any array of a tree from its expected one, over the largest value of that."""
  errors = [
    np.abs(np.asarray(ours, np.float64) - theirs).max() / max(np.abs(theirs).max(), 1e-30)
    for ours, theirs in zip(
      jax.tree.leaves(results), (np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(expected)), strict=True
    )
  ]
  return max(errors) if np.isfinite(errors).all() else np.nan


def run_on(device: jax.Device, function: Callable, *args: Any) -> Any:
  """Compiles a function for a device, runs it there and returns what it returns, on the host."""
  return jax.device_get(jax.jit(function)(*jax.device_put(args, device)))


def host() -> jax.Device:
  """Returns the CPU, beside which all is compared."""
  return jax.local_devices(backend='cpu')[0]


def compare_losses(flags: argparse.Namespace, device: jax.Device) -> list[dict]:
  """Compares value and gradient of every form of the losses."""
  rng = np.random.default_rng(0)
  student, teacher = rng.standard_normal((2, flags.batch, 10)).astype(np.float32)
  labels = rng.integers(0, 10, flags.batch)
  activations = rng.standard_normal((2, 3, flags.batch, 8, 8, 16)).astype(np.float32)
  config = make_config(flags.networks[0], flags.batch, 'float32')
  rows = []
  for field, forms, arguments in (
    ('kd_form', losses.KD_FORMS, (student, teacher, labels)),
    ('at_form', losses.AT_FORMS, (tuple(activations[0]), tuple(activations[1]), labels)),
  ):
    for form in forms:
      config.distill[field] = form
      term = (terms.kd_term if field == 'kd_form' else terms.at_term)(config.distill, None)
      function = jax.value_and_grad(lambda *args, term=term: term(*args).mean())
      with jax.default_matmul_precision('highest'):
        results, expected = (run_on(each, function, *arguments) for each in (device, host()))
      error = largest_error(results, expected)
      rows.append(make_row('loss', f'{field}={form}', {'float32': error}))
  return rows


def convolution_cases() -> Iterator[Case]:
  """Yields the convolutions: groups of 1, 2 and 8 channels and of half of them, 3x3; dense 3x3, 1x1 and 2x2."""
  for case in list_cases(SHAPES):
    channels, groups = case.channels, case.conv.feature_group_count
    if groups == 1 or channels // groups in (1, 2, 8, channels // 2):
      yield case


def compare_convolution(case: Case, flags: argparse.Namespace, device: jax.Device) -> list[dict]:
  """Compares a convolution and its gradients, by the rule and by XLA's own operation, with XLA's own on the CPU."""
  channels, size, kernel_size, conv = case
  groups = conv.feature_group_count
  rng = np.random.default_rng(0)
  x = rng.standard_normal((min(flags.batch, MOST_IMAGES), size, size, channels))
  kernel = rng.standard_normal((kernel_size, kernel_size, channels // groups, channels))

  def parts(convolve, x, kernel, dy):
    y, transpose = jax.vjp(
      lambda x, kernel: convolve(
        x, kernel, conv.window_strides, conv.padding, None, conv.rhs_dilation, NHWC, feature_group_count=groups
      ),
      x,
      kernel,
    )
    return y, transpose(dy)

  def both(x, kernel, dy):
    return {name: parts(convolve, x, kernel, dy) for name, convolve in formulations.items()}

  formulations = {'rule': grouped_conv.conv_general_dilated, 'lax': jax.lax.conv_general_dilated}
  out = -(-(size + 2 * conv.padding[0][0] - conv.rhs_dilation[0] * (kernel_size - 1)) // conv.window_strides[0])
  dy = rng.standard_normal((len(x), out, out, channels))
  reference = jax.jit(functools.partial(parts, jax.lax.conv_general_dilated))
  errors: dict[str, dict[str, float]] = {name: {} for name in formulations}
  for precision, (setting, dtype) in PRECISIONS.items():
    operands = [jnp.asarray(each, dtype) for each in (x, kernel, dy)]
    expected = reference(*jax.device_put([np.asarray(each, np.float32) for each in operands], host()))
    with jax.default_matmul_precision(setting) if setting else contextlib.nullcontext():
      results = run_on(device, both, *operands)
    for name in formulations:
      errors[name][precision] = largest_error(results[name], expected)
  stride = conv.window_strides[0]
  words = f'{kernel_size}x{kernel_size}, {channels} channels at {size}, stride {stride}, {groups} groups'
  return [make_row('convolution', f'{words}, {name}', errors[name]) for name in formulations]


def compare_steps(architecture: Architecture, flags: argparse.Namespace, device: jax.Device) -> list[dict]:
  """Compares a train step of a network in each precision with that on the CPU, in float32 by XLA's convolutions."""
  with lax_only():
    expected = take_step(architecture, flags, host(), 'float32')
  errors: dict[str, dict[str, float]] = {'metrics': {}, 'update': {}, 'statistics': {}}
  for precision in ('float32', 'bfloat16'):
    setting, dtype = PRECISIONS[precision]
    with jax.default_matmul_precision(setting) if setting else contextlib.nullcontext():
      metrics, update, statistics = take_step(architecture, flags, device, dtype)
    errors['metrics'][precision] = largest_error(metrics, expected[0])
    errors['update'][precision] = float(np.linalg.norm(update - expected[1]) / np.linalg.norm(expected[1]))
    errors['statistics'][precision] = largest_error(statistics, expected[2])
  return [make_row(what, str(architecture), by_precision) for what, by_precision in errors.items()]


def take_step(
  architecture: Architecture, flags: argparse.Namespace, device: jax.Device, dtype: str
) -> tuple[dict[str, np.ndarray], np.ndarray, list[np.ndarray]]:
  """Takes a train step of a student that learns from labels, logits and activations of a network of S blocks.

  Returns:
    The metrics, the change of all parameters in one vector, and BN's statistics.
  """
  teacher_config = make_config(architecture._replace(block='S'), flags.batch, dtype)
  config = make_config(architecture, flags.batch, dtype)
  config.distill.update(alpha=0.5, kd_form='hinton', beta=100.0)
  image_shape = (flags.image_size, flags.image_size, 3)
  replicas = Replicas([device])
  student, teacher = make_network(config), make_network(teacher_config)
  tx = optimizer.create_optimizer(config, steps_per_epoch=1000)
  with jax.default_device(host()):
    keys = jax.random.split(jax.random.key(0), 3)
    state = jax.device_get(step_lib.create_train_state(student, image_shape, tx, *keys[:2]))
    teacher_variables = jax.device_get(teacher.init(keys[2], image_shape))
  feed = ResidentFeed(Split(*synthetic_batch(flags.batch, flags.image_size)), replicas)
  (batch,) = feed.batches([{'index': np.arange(flags.batch, dtype=np.int32)}])
  train_step = step_lib.make_train_step([config], [student], teacher, [tx], feed.gather, replicas)
  step = replicas.compile(train_step, loop=True)  # with the options of a loop: its CUDA graphs are checked too
  (after,), (metrics,) = replicas.fetch(
    step((replicas.replicate(state),), replicas.replicate(teacher_variables), feed.data, batch)
  )
  del metrics['error']  # a share of the batch: an image that another rounding turns over counts whole
  return metrics, flat(after.params) - flat(state.params), jax.tree.leaves(after.batch_stats)


def flat(tree: Any) -> np.ndarray:
  """Returns all numbers of a tree in one vector."""
  leaves: Sequence[Any] = jax.tree.leaves(tree)
  return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in leaves])


if __name__ == '__main__':
  main()
