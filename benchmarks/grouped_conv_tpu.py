"""Estimates, without a TPU, what a unit with a grouped convolution costs on one, by formulation.

  pip install 'libtpu==0.0.42.*'   # beside jax 0.10.2
  JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python -m benchmarks.grouped_conv_tpu --json=grouped_conv_tpu.json

Compiles ahead of time for a v5e the forward and backward pass of residual units (BN, ReLU, grouped 3x3, BN, ReLU, 1x1)
in bfloat16, and sums the cycles that XLA's compiler estimates for its operations. A convolution alone misleads: the
layout that it asks of its neighbours is what costs (8x8x128, 16 channels in a group: alone, XLA's own costs 3% more
than one dense block; in a unit, 42%).
"""

import argparse
import json
import re

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import topologies

from moonshine_jax.environment import environment
from moonshine_jax.ops.formulations import LAX, NHWC, Conv, merged

SHAPES = ((32, 32), (64, 16), (128, 8))  # (channels, image size) of WRN-40-2
WIDTHS = (1, 2, 4, 8, 16, 32)  # channels in a group
CHOICES = {
    'lax': LAX,
    'dense, weights lax': merged(1)._replace(weight_gradient=LAX.weight_gradient),
    'dense': merged(1),
}
UNITS = 4  # So that the first and last layouts, which are given, weigh little.


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--batch', type=int, default=128, help='images (default: 128)')
  parser.add_argument('--topology', default='v5e:2x2', help='as the TPU compiler names it (default: v5e:2x2)')
  parser.add_argument('--json', help='file to write the estimates to')
  flags = parser.parse_args()

  device = topologies.get_topology_desc(platform='tpu', topology_name=flags.topology).devices[0]
  rows = []
  print(f'{"C":>4} {"HxW":>6} {"width":>5}' + ''.join(f'{name:>34}' for name in CHOICES))
  for channels, size in SHAPES:
    for width in (width for width in WIDTHS if width < channels):
      row = {'channels': channels, 'size': size, 'width': width, 'batch': flags.batch, 'estimates': {}}
      print(f'{channels:>4} {size:>3}x{size:<3}{width:>5}', end='', flush=True)
      for name, formulation in CHOICES.items():
        cycles, accessed = estimate(formulation, (flags.batch, size, size, channels), width, device)
        row['estimates'][name] = {'cycles': cycles, 'bytes': accessed}
        print(f'{cycles / 1e3:>14.1f} kcycles {accessed / 1e6:>8.1f} MB', end='', flush=True)
      print()
      rows.append(row)
  if flags.json:
    with open(flags.json, 'w') as file:
      json.dump({'environment': environment(), 'flags': vars(flags), 'rows': rows}, file, indent=1)


def estimate(formulation, x_shape, width, device):
  """(cycles, bytes accessed) a unit, forward and backward."""
  sharding = jax.sharding.SingleDeviceSharding(device)

  def array(shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

  channels = x_shape[3]
  convolve = differentiable(formulation, Conv((1, 1), ((1, 1), (1, 1)), (1, 1), channels // width))
  params = [
      {'grouped': array((3, 3, width, channels)), 'pointwise': array((1, 1, channels, channels)),
       'scales': array((2, channels))} for _ in range(UNITS)]
  step = jax.value_and_grad(lambda params, x: jnp.mean(jnp.square(units(params, x, convolve).astype(jnp.float32))))
  compiled = jax.jit(step).lower(params, array(x_shape, jnp.bfloat16)).compile()
  cycles = sum(int(cycles) for cycles in re.findall(r'"estimated_cycles":"(\d+)"', compiled.as_text()))
  return cycles / UNITS, compiled.cost_analysis()['bytes accessed'] / UNITS


def differentiable(formulation, conv):
  """A formulation as one function with its own gradients."""
  @jax.custom_vjp
  def convolve(x, kernel):
    return formulation.forward(x, kernel, conv)

  def backward(residuals, dy):
    x, kernel = residuals
    return (formulation.input_gradient(dy, kernel, x.shape, conv),
            formulation.weight_gradient(x, dy, kernel.shape, conv))

  convolve.defvjp(lambda x, kernel: (convolve(x, kernel), (x, kernel)), backward)
  return convolve


def units(params, x, convolve):
  for unit in params:
    y = convolve(normalised(x, unit['scales'][0]), unit['grouped'].astype(x.dtype))
    x += lax.conv_general_dilated(
        normalised(y, unit['scales'][1]), unit['pointwise'].astype(x.dtype), (1, 1), 'VALID', dimension_numbers=NHWC)
  return x


def normalised(x, scale):
  """BN in training and ReLU."""
  wide = x.astype(jnp.float32)
  mean = wide.mean((0, 1, 2))
  variance = jnp.square(wide).mean((0, 1, 2)) - jnp.square(mean)
  return jax.nn.relu((wide - mean) * lax.rsqrt(variance + 1e-5) * scale).astype(x.dtype)


if __name__ == '__main__':
  main()
