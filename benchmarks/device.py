"""Says what the accelerator of this machine is, and how to compile for it where there is none.

  python -m benchmarks.device --json=device.json --target_config=target_config.txt

The target_config is XLA's description of an NVIDIA GPU: its compiler needs no more of one, so that
`jax.experimental.topologies.get_topology_desc(platform='cuda', target_config=..., topology='1x1x1')` compiles for this
GPU on a machine that has none. Exits with 2 where JAX finds no accelerator.
"""

import argparse
import subprocess
from pathlib import Path

import jax
from jaxlib import xla_client

from benchmarks.command import add_json, write_json
from moonshine_jax.workdir.provenance import environment

SMI = (
  'name,driver_version,vbios_version,clocks.max.sm,clocks.max.mem,power.limit,memory.total,memory.used,mig.mode.current'
)


def main(arguments: list[str] | None = None) -> None:
  """Prints what the device is, and writes the JSON and the target_config."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  add_json(parser)
  parser.add_argument('--target_config', help="file to write a GPU's target_config to")
  parser.add_argument('--cpu', action='store_true', help='takes a CPU too, for a rehearsal')
  flags = parser.parse_args(arguments)
  backend = jax.default_backend()
  if backend == 'cpu' and not flags.cpu:
    parser.error("JAX finds no accelerator: expected a GPU (pip install 'moonshine-jax[cuda]') or a TPU ([tpu])")
  device = jax.devices()[0]
  row = {
    'platform_version': device.client.platform_version,
    'memory_bytes': (device.memory_stats() or {}).get('bytes_limit'),
    'nvidia_smi': ask_nvidia_smi(),
    'target_config': bool(write_target_config(device, flags.target_config)),
  }
  for name, value in (environment() | row).items():
    print(f'{name}: {value}')
  write_json(flags.json, flags, [row])


def ask_nvidia_smi() -> str | None:
  """Returns driver, clocks, power limit and memory of the GPUs, as nvidia-smi has them; None without nvidia-smi."""
  try:
    command = ('nvidia-smi', f'--query-gpu={SMI}', '--format=csv')
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=20).stdout.strip()
  except (OSError, subprocess.TimeoutExpired):
    return None


def write_target_config(device: jax.Device, path: str | None) -> str | None:
  """Writes a device's target_config to a file, if one is given. Returns it; None for a device that has none."""
  topology = xla_client.get_topology_for_devices([device])
  try:
    text = str(topology.target_config)
  except AttributeError:  # of a TPU and a CPU
    return None
  if path:
    Path(path).write_text(text)
  return text


if __name__ == '__main__':
  main()
