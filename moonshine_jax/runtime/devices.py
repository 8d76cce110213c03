"""Several devices: the only file that knows of them. `jit` on one device, `pmap` across many, behind one call.

The devices may be those of several processes, which all make the same calls; each has the arrays of its own devices.

A step is written for one replica. It reduces over the others with `mean` and `total`, takes its share of something
that was drawn for the whole batch with `replica_share`, and draws apart from them with `replica_key`; on one device none of
these changes anything.
"""

import collections
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import lax

from moonshine_jax.errors import UserError
from moonshine_jax.runtime.cpu import available_cores

AXIS = 'batch'


def use_all_cores(batch_size: int, processes: int = 1) -> None:
  """Makes of a CPU one device a core, as far as they divide the batch; to be called before JAX is used.

  XLA keeps little more than one core busy in a train step on one device. Where the user says into how many devices a
  CPU is divided ($JAX_NUM_CPU_DEVICES, or $XLA_FLAGS), that holds. Of several processes each has a CPU of its own.
  """
  divided = 'xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', '')
  if jax.config.jax_num_cpu_devices < 0 and not divided:
    share, remainder = divmod(batch_size, processes)
    devices = 1 if remainder else max(n for n in range(1, available_cores() + 1) if share % n == 0)
    jax.config.update('jax_num_cpu_devices', devices)


class Replicas:
  """The devices of one data-parallel computation.

  Attributes:
    devices: those of this process.
    axis_name: what a step passes to the functions below and a model to BN; None on one device.
  """

  def __init__(self, devices: Sequence[jax.Device] | None = None):
    """Takes all devices of all processes, or those given. Raises UserError where processes have different numbers."""
    self.devices = tuple(devices or jax.local_devices())
    self._all_devices = self.devices
    if jax.process_count() > 1:
      self._all_devices = tuple(sorted(jax.devices(), key=lambda device: device.process_index))
      found = collections.Counter(device.process_index for device in self._all_devices)
      if len(set(found.values())) > 1:
        raise UserError(f'processes have {sorted(found.values())} devices: expected the same number in each')
    self.axis_name = AXIS if len(self) > 1 else None
    if self.axis_name:
      mesh = jax.sharding.Mesh(np.array(self.devices), AXIS)
      self._sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))

  def __len__(self) -> int:
    return len(self._all_devices)

  def round_up(self, batch_size: int) -> int:
    """The least multiple of the devices that is no less."""
    return -(-batch_size // len(self)) * len(self)

  def compile(self, step: Callable, donate_argnums: Sequence[int] = ()) -> Callable:
    """The step for all replicas: takes and returns trees of `replicate` and `shard`."""
    if self.axis_name is None:
      return jax.jit(step, donate_argnums=donate_argnums)
    return jax.pmap(step, axis_name=AXIS, devices=self._all_devices, donate_argnums=donate_argnums)

  def replicate(self, tree: Any) -> Any:
    """The same arrays on every device."""
    if self.axis_name is None:
      return jax.device_put(tree, self.devices[0])
    stacked = jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), (len(self.devices), *np.shape(x))), tree)
    return jax.device_put(stacked, self._sharding)

  def process_share(self, batch: Any, axis: int = 0) -> Any:
    """Of host arrays, their axis of examples a multiple of all devices, the part of this process."""
    processes = len(self) // len(self.devices)
    return jax.tree.map(lambda x: np.split(x, processes, axis)[jax.process_index()] if processes > 1 else x, batch)

  def shard(self, batch: Any, axis: int = 0) -> Any:
    """Host arrays, this process's own part: the shares of its devices in order, on the devices."""
    if self.axis_name is None:
      return jax.device_put(batch, self.devices[0])
    shares = jax.tree.map(lambda x: np.stack(np.split(x, len(self.devices), axis)), batch)
    return jax.device_put(shares, self._sharding)

  def fetch(self, tree: Any) -> Any:
    """The first replica's arrays as NumPy copies, that a later donation cannot touch."""
    if self.axis_name is None:
      return jax.tree.map(np.array, jax.device_get(tree))
    return jax.tree.map(lambda x: np.array(x.addressable_shards[0].data)[0], tree)

  def broadcast_from_first(self, array: np.ndarray) -> np.ndarray:
    """The first process's array in every process; the others give zeros of its shape."""
    if self.axis_name is None:
      return array
    terms = np.zeros((len(self.devices), *array.shape), array.dtype)
    terms[0] = array  # of zeros too
    return self.fetch(self.compile(lambda x: total(x, self.axis_name))(jax.device_put(terms, self._sharding)))


def mean(tree: Any, axis_name: str | None) -> Any:
  """The mean over the replicas."""
  return tree if axis_name is None else lax.pmean(tree, axis_name)


def total(tree: Any, axis_name: str | None) -> Any:
  """The sum over the replicas."""
  return tree if axis_name is None else lax.psum(tree, axis_name)


def replica_key(key: jax.Array, axis_name: str | None) -> jax.Array:
  """A key of this replica's own."""
  return key if axis_name is None else jax.random.fold_in(key, lax.axis_index(axis_name))


def replica_share(tree: Any, size: int, axis_name: str | None) -> Any:
  """Of arrays (batch, ...) that every replica holds whole, the `size` rows of this replica."""
  if axis_name is None:
    return tree
  start = lax.axis_index(axis_name) * size
  return jax.tree.map(functools.partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=size), tree)


# Dispatches that the host is ahead of the devices: enough to keep them busy, few enough to be told of. With 32 and more
# a CPU of several devices stops for ever: XLA then blocks the threads in which the devices would catch up.
IN_FLIGHT = 4


def cache_compilations(folder: str | os.PathLike) -> None:
  """Keeps compiled steps in a folder from run to run, unless the user named another ($JAX_COMPILATION_CACHE_DIR)."""
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', str(Path(folder).absolute()))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)  # an initialiser compiles once for each shape
