"""Data-parallel computation on one device or several: `jit` on one, `pmap` across many, behind one call.

No other module knows how many devices there are. They may be those of several processes, which all make the same calls;
each process has the arrays of its local devices.

A step is written for one replica. It reduces over the others with `mean` and `total`, takes its share of what was drawn
for the whole batch with `replica_share`, and draws random numbers that differ between replicas with `replica_key`. On
one device none of these changes anything.
"""

import collections
import functools
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils

from moonshine_jax.errors import UserError
from moonshine_jax.runtime import cpu, files, gpu

AXIS = 'batch'

# How XLA compiles a step, and a loop over train steps, by the platform of the devices. What $XLA_FLAGS names is as it
# says.
COMPILER_OPTIONS: dict[str, dict[str, Any]] = {'cpu': cpu.COMPILER_OPTIONS, 'gpu': gpu.COMPILER_OPTIONS}
LOOP_OPTIONS: dict[str, dict[str, Any]] = COMPILER_OPTIONS | {'gpu': gpu.LOOP_OPTIONS}

# Dispatches that the host is at most ahead of the devices: enough to keep them busy, few enough to tell of progress in
# time. With 32 and more a CPU of several devices stops for ever: XLA then blocks the threads in which the devices would
# catch up.
IN_FLIGHT = 4

# The environment variables that choose devices, and the module that each platform but the CPU needs.
ASKS_FOR_DEVICES = ('JAX_PLATFORMS', 'JAX_NUM_CPU_DEVICES', 'CUDA_VISIBLE_DEVICES', 'XLA_FLAGS')
PLUGINS = {'cuda': 'jax_cuda13_plugin', 'tpu': 'libtpu'}


def use_all_cores(batch_size: int, processes: int = 1) -> None:
  """Divides the CPU into a device per core, as far as the devices divide the batch; to be called before JAX is used.

  XLA keeps little more than one core busy in a train step on one device. Where the user says into how many devices a
  CPU is divided ($JAX_NUM_CPU_DEVICES, or $XLA_FLAGS), that holds.

  Args:
    batch_size: examples in the batch of a step, over all devices of all processes.
    processes: number of processes, each on a different CPU.

  Raises:
    UserError: for 0 devices in $JAX_NUM_CPU_DEVICES.
  """
  if jax.config.values['jax_num_cpu_devices'] == 0:
    raise UserError('JAX_NUM_CPU_DEVICES=0: expected at least 1, the devices into which a CPU is divided')
  divided = 'xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', '')
  if jax.config.values['jax_num_cpu_devices'] < 0 and not divided:
    share, remainder = divmod(batch_size, processes)
    devices = 1 if remainder else max(n for n in range(1, cpu.available_cores() + 1) if share % n == 0)
    jax.config.update('jax_num_cpu_devices', devices)


def local_devices() -> list[jax.Device]:
  """Returns the devices of this process.

  Raises:
    UserError: where JAX cannot start what the environment asks for: says what was asked, what is installed, and how to
      install the rest.
  """
  try:
    return jax.local_devices()
  except (RuntimeError, AssertionError) as error:  # JAX asserts where an asked platform has no plugin
    asked = ' '.join(f'{name}={os.environ[name]}' for name in ASKS_FOR_DEVICES if os.environ.get(name))
    installed = ['cpu', *(name for name, module in PLUGINS.items() if importlib.util.find_spec(module))]
    raise UserError(
      f'{asked or "JAX"}: no such device is found ({str(error) or "no plugin"}): installed: {", ".join(installed)}; '
      "for an NVIDIA GPU: pip install 'moonshine-jax[cuda]', for Cloud TPU: pip install 'moonshine-jax[tpu]'"
    ) from error


class WithOptions:
  """A pmapped function that XLA compiles with options: `jax.pmap` takes none, but what it lowers does."""

  def __init__(self, mapped: Any, devices: Sequence[jax.Device], options: Mapping[str, Any]):
    """Takes a function of `jax.pmap` over AXIS, the devices of all processes, and the options."""
    self._mapped = mapped
    self._mesh = jax.sharding.Mesh(np.array(devices), AXIS)
    self._options = dict(options)
    self._compiled: dict[Any, Callable] = {}  # by the shapes of the arguments

  def lower(self, *args: Any) -> Any:
    """Lowers the function for arguments, as the lowering of `jax.pmap` does."""
    return self._mapped.lower(*args)

  def __call__(self, *args: Any) -> Any:
    """Calls the function, which compiles for the first arguments of each shape."""
    if jax.process_count() == 1:
      return self._call(args)
    # What is lowered takes and returns the arrays of all processes, not the local parts of them as `jax.pmap` does.
    spec = jax.sharding.PartitionSpec(AXIS)
    results = self._call(multihost_utils.host_local_array_to_global_array(args, self._mesh, spec))
    return multihost_utils.global_array_to_host_local_array(results, self._mesh, spec)

  def _call(self, args: tuple[Any, ...]) -> Any:
    leaves, structure = jax.tree.flatten(args)
    shapes = structure, tuple(jax.typeof(leaf) for leaf in leaves)
    if shapes not in self._compiled:
      self._compiled[shapes] = self.lower(*args).compile(self._options)
    return self._compiled[shapes](*args)


class Replicas:
  """The devices of one data-parallel computation.

  Attributes:
    devices: the devices of this process.
    axis_name: of the replicas, for the functions of this module inside a step and for a model's BN; None on one device.
  """

  def __init__(self, devices: Sequence[jax.Device] | None = None, compiler_options: Mapping[str, Any] | None = None):
    """Takes devices.

    Args:
      devices: of this process; by default, all devices of all processes.
      compiler_options: of XLA, for every step and loop; by default, those of the platform.

    Raises:
      UserError: where JAX finds no device, or processes have different numbers of them.
    """
    self.devices = tuple(devices or local_devices())
    self._compiler_options = compiler_options
    self._all_devices = self.devices
    if jax.process_count() > 1:
      self._all_devices = tuple(sorted(jax.devices(), key=lambda device: device.process_index))
      counts = collections.Counter(device.process_index for device in self._all_devices)
      if len(set(counts.values())) > 1:
        raise UserError(f'processes have {sorted(counts.values())} devices: expected the same number in each')
    self.axis_name = AXIS if len(self) > 1 else None
    if self.axis_name:
      mesh = jax.sharding.Mesh(np.array(self.devices), AXIS)
      self._sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))

  def __len__(self) -> int:
    return len(self._all_devices)

  @property
  def platform(self) -> str:
    """The kind of the devices, as JAX names it: 'cpu', 'gpu' or 'tpu'."""
    return self.devices[0].platform

  def round_up(self, batch_size: int) -> int:
    """Returns the least multiple of the number of devices that is not below a batch size."""
    return -(-batch_size // len(self)) * len(self)

  def compile(self, step: Callable, donate_argnums: Sequence[int] = (), loop: bool = False) -> Callable:
    """Compiles a step for all replicas.

    Args:
      step: pure, written for one replica.
      donate_argnums: the arguments whose memory the results may take.
      loop: whether it is a loop over train steps.

    Returns:
      The compiled step, which takes and returns trees as `replicate` and `shard` make them.
    """
    flags = os.environ.get('XLA_FLAGS', '')
    options = self._compiler_options
    if options is None:
      options = (LOOP_OPTIONS if loop else COMPILER_OPTIONS).get(self.platform, {})
    options = {name: value for name, value in options.items() if name not in flags}
    if self.axis_name is None:
      return jax.jit(step, donate_argnums=donate_argnums, compiler_options=options)
    mapped = jax.pmap(step, axis_name=AXIS, devices=self._all_devices, donate_argnums=donate_argnums)
    return WithOptions(mapped, self._all_devices, options) if options else mapped

  def replicate(self, tree: Any) -> Any:
    """Puts the same arrays on every device."""
    if self.axis_name is None:
      return jax.device_put(tree, self.devices[0])
    stacked = jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), (len(self.devices), *np.shape(x))), tree)
    return jax.device_put(stacked, self._sharding)

  def process_share(self, batch: Any, axis: int = 0) -> Any:
    """Takes this process's share of a batch.

    Args:
      batch: a tree of host arrays, which every process holds whole.
      axis: the axis of examples, whose length is a multiple of the number of all devices.
    """
    processes = len(self) // len(self.devices)
    return jax.tree.map(lambda x: np.split(x, processes, axis)[jax.process_index()] if processes > 1 else x, batch)

  def shard(self, batch: Any, axis: int = 0) -> Any:
    """Puts a process's share of a batch on its devices, in order, an equal part on each.

    Args:
      batch: a tree of host arrays, as `process_share` returns it.
      axis: the axis of examples, along which the arrays are divided.
    """
    if self.axis_name is None:
      return jax.device_put(batch, self.devices[0])
    shares = jax.tree.map(lambda x: np.stack(np.split(x, len(self.devices), axis)), batch)
    return jax.device_put(shares, self._sharding)

  def fetch(self, tree: Any) -> Any:
    """Copies the first replica's arrays to NumPy, where a later donation cannot touch them."""
    if self.axis_name is None:
      return jax.tree.map(np.array, jax.device_get(tree))
    return jax.tree.map(lambda x: np.array(x.addressable_shards[0].data)[0], tree)

  def broadcast_from_first(self, array: np.ndarray) -> np.ndarray:
    """Returns the first process's array in every process.

    Args:
      array: in the first process, what is broadcast; in the others, zeros of the same shape and dtype.
    """
    if self.axis_name is None:
      return array
    terms = np.zeros((len(self.devices), *array.shape), array.dtype)
    terms[0] = array  # zeros in all processes but the first: the sum over all devices is the first one's array
    return self.fetch(self.compile(lambda x: total(x, self.axis_name))(jax.device_put(terms, self._sharding)))


def mean(tree: Any, axis_name: str | None) -> Any:
  """Returns the mean over the replicas; to be called inside a step."""
  return tree if axis_name is None else lax.pmean(tree, axis_name)


def total(tree: Any, axis_name: str | None) -> Any:
  """Returns the sum over the replicas; to be called inside a step."""
  return tree if axis_name is None else lax.psum(tree, axis_name)


def replica_key(key: jax.Array, axis_name: str | None) -> jax.Array:
  """Returns a random key that is different on every replica; to be called inside a step."""
  return key if axis_name is None else jax.random.fold_in(key, lax.axis_index(axis_name))


def replica_share(tree: Any, size: int, axis_name: str | None) -> Any:
  """Takes a replica's share of arrays that every replica holds whole; to be called inside a step.

  Args:
    tree: of arrays (batch, ...).
    size: rows in a share.
    axis_name: of the replicas.

  Returns:
    Arrays (size, ...).
  """
  if axis_name is None:
    return tree
  start = lax.axis_index(axis_name) * size
  return jax.tree.map(functools.partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=size), tree)


def join_shares(tree: Any, axis_name: str | None) -> Any:
  """Returns arrays (batch, ...) of which every replica holds a share whole; to be called inside a step."""
  return tree if axis_name is None else lax.all_gather(tree, axis_name, tiled=True)


def cache_compilations(workdir: str | os.PathLike) -> None:
  """Keeps compiled steps in a folder beside a workdir, unless the user named another ($JAX_COMPILATION_CACHE_DIR).

  Raises UserError where a link leads to another folder.
  """
  folder = Path(workdir).absolute().parent / '.jax_cache'
  files.check_inside(folder, folder.parent)
  if not jax.config.values['jax_compilation_cache_dir']:
    jax.config.update('jax_compilation_cache_dir', str(folder))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)  # an initialiser compiles once for each shape
