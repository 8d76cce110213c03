"""What a measurement must say about where it was made."""

import importlib.metadata
import os
import platform
import subprocess

import jax
import jaxlib


def environment():
  """Hardware, versions and commit, as a dict for JSON."""
  device = jax.devices()[0]
  return {
      'backend': jax.default_backend(), 'device': device.device_kind, 'devices': jax.device_count(),
      'processor': _processor(), 'cpus': len(os.sched_getaffinity(0)),
      'python': platform.python_version(), 'jax': jax.__version__, 'jaxlib': jaxlib.__version__,
      'flax': _version('flax'), 'torch': _version('torch'), 'libtpu': _version('libtpu'),
      'xla_flags': os.environ.get('XLA_FLAGS', ''), 'omp_wait_policy': os.environ.get('OMP_WAIT_POLICY', ''),
      'commit': _commit()}


def _processor():
  try:
    with open('/proc/cpuinfo') as file:
      return next(line.split(':', 1)[1].strip() for line in file if line.startswith('model name'))
  except (OSError, StopIteration):
    return platform.processor()


def _version(package):
  """Of an installed package; None where it is not."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def _commit():
  """The commit of this checkout, with '+' where files differ from it; None outside of a checkout."""
  def git(*command):
    return subprocess.run(
        ('git', *command), cwd=os.path.dirname(os.path.abspath(__file__)), capture_output=True, text=True, check=True
    ).stdout.strip()

  try:
    return git('rev-parse', 'HEAD') + ('+' if git('status', '--porcelain', '--untracked-files=no') else '')
  except (OSError, subprocess.CalledProcessError):
    return None
