"""A trained network as one file, without code: its variables as safetensors, and what its workdir knows of it.

The file is read wherever a workdir is. Its header holds, as JSON, the config, the facts of the data, the metrics of the
last epoch and the starts of the run; and a checksum of these and of all arrays.
"""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypedDict, cast

import ml_collections
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util
from msgspec import Meta

from moonshine_jax import config as config_lib
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError, shown
from moonshine_jax.models import factory
from moonshine_jax.runtime import files, json_files
from moonshine_jax.workdir import metrics, provenance, zoo
from moonshine_jax.workdir.metadata import Metadata
from moonshine_jax.workdir.workdir import Workdir

FORMAT, VERSION = 'moonshine_jax network', '1'  # of the file
EXPECTED = 'a file of `moonshine zoo add`'


class _Values(TypedDict):
  """The schema of the JSON of a run in the header."""

  step: metrics.Count
  config: dict[str, Any]
  facts: Facts
  records: Annotated[list[metrics.Record], Meta(min_length=1)]
  starts: Annotated[list[provenance.Start], Meta(min_length=1)]


class NetworkFile(Workdir):
  """A trained network in a file, which is read as the workdir of its run would be.

  Attributes:
    path: as the file was named: its path, or zoo:NAME.
    file: path of the file.
  """

  def __init__(self, path: str | os.PathLike):
    super().__init__(path)
    self.file = zoo.zoo_file(os.fspath(path)) if zoo.in_zoo(path) else Path(path)

  @property
  def begun(self) -> bool:
    """Whether there is such a file."""
    return self.file.exists()

  @property
  def config(self) -> ml_collections.ConfigDict:
    """The run's config. Raises UserError where the file is damaged."""
    try:
      config = config_lib.from_json(self._values['config'])
      factory.check_model(config.model, load=False)
    except UserError as error:
      raise UserError(f'{self}: {error}') from error
    return config

  @property
  def records(self) -> list[dict[str, Any]]:
    """The metrics of the last epoch. Raises UserError where the file is damaged."""
    return [dict(record) for record in self._values['records']]

  @property
  def starts(self) -> list[dict[str, Any]]:
    """When, how and on what the run was started. Raises UserError where the file is damaged."""
    return [dict(start) for start in self._values['starts']]

  @property
  def facts(self) -> Facts:
    """The facts of the run's data. Raises UserError where the file is damaged."""
    return Facts.from_json(cast(dict[str, Any], self._values['facts']))

  @property
  def step(self) -> int:
    """The step of the network. Raises UserError where the file is damaged."""
    return self._values['step']

  @functools.cached_property
  def _values(self) -> _Values:
    return self._read()[0]

  def restore_variables(self, check: Callable[[ml_collections.ConfigDict], None]) -> tuple[dict[str, Any], Metadata]:
    """Reads the variables, for the network of the config.

    Args:
      check: called with the config before its network is built; raises where that may not be.

    Returns:
      Host arrays, and what a checkpoint holds beside them.

    Raises:
      UserError: where the file is damaged, or its arrays are not those of its network.
    """
    _, arrays = self._read()
    config, facts = self.config, self.facts
    check(config)
    shapes = traverse_util.flatten_dict(factory.create_network(config.model, facts).shapes(facts.image_shape), sep='/')
    for name in sorted(arrays.keys() | shapes.keys()):
      ours, theirs = (tree[name].shape if name in tree else None for tree in (shapes, arrays))
      if ours != theirs:
        raise UserError(f'{self}: {shown(name)} has the shape {theirs}, and its config asks for {ours}')
    variables = {name: arrays[name].astype(leaf.dtype, copy=False) for name, leaf in shapes.items()}
    return traverse_util.unflatten_dict(variables, sep='/'), Metadata(self.step, config, facts, {}, {})

  def _read(self) -> tuple[_Values, dict[str, np.ndarray]]:
    """Reads the file, whole, and compares it with its checksum. Raises UserError."""
    if not self.file.is_file():  # a pipe would never end
      raise UserError(f'{self}: no such file: expected {EXPECTED}')
    try:
      with safetensors.safe_open(self.file, 'np') as file:
        header = file.metadata() or {}
        _check_format(self, header)
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
      if header.get('sha256') != _checksum(header, arrays):
        raise ValueError('it is not what was written: its checksum is another')
      return json_files.parse_json(header['run'].encode(), _Values), arrays
    except UserError:
      raise
    except Exception as error:  # whatever the library raises for bytes that are not its own
      raise UserError(f'{self}: damaged ({" ".join(str(error).split())[:200]}): expected {EXPECTED}') from error


def _check_format(name: Any, header: Mapping[str, str]) -> None:
  if header.get('format') != FORMAT:
    raise UserError(
      f'{name}: no network of this package: expected {EXPECTED}; a state dict of PyTorch is for moonshine import-torch'
    )
  if header.get('version') != VERSION:
    raise UserError(
      f'{name}: of version {shown(header.get("version"))} of its format: expected {VERSION!r}, which this version of '
      'the package reads'
    )


def write_network_file(
  path: str | os.PathLike,
  step: int,
  config: ml_collections.ConfigDict,
  facts: Facts,
  variables: Mapping[str, Any],
  records: list[dict[str, Any]],
  starts: list[dict[str, Any]],
) -> None:
  """Writes the file of a network, whole or not at all.

  Args:
    path: of the file.
    step: training steps done.
    config: config of the run.
    facts: facts of its data.
    variables: host arrays, which are written in float32.
    records: of the last epoch, as in `metrics.jsonl`.
    starts: of the run, as in `environment.jsonl`.

  Raises:
    UserError: where the system refuses.
  """
  arrays = {
    name: np.asarray(array, np.float32, order='C')  # which leaves a scalar one
    for name, array in traverse_util.flatten_dict(dict(variables), sep='/').items()
  }
  values = {
    'step': step,
    'config': config_lib.to_json(config),
    'facts': facts.to_json(),
    'records': records,
    'starts': starts,
  }
  header = {'format': FORMAT, 'version': VERSION, 'run': json.dumps(values, allow_nan=False)}
  header['sha256'] = _checksum(header, arrays)
  files.write_atomically(path, safetensors.numpy.save(arrays, header))


def _checksum(header: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str:
  """The SHA-256 of what the file holds, in whatever order it does."""
  digest = hashlib.sha256()
  for name in sorted(header.keys() - {'sha256'}):
    digest.update(f'{name}={header[name]}\n'.encode())
  for name in sorted(arrays):
    digest.update(f'{name}={arrays[name].dtype.str}{arrays[name].shape}\n'.encode())
    digest.update(arrays[name].tobytes())
  return digest.hexdigest()


def open_workdir(workdir: str | os.PathLike) -> Workdir:
  """Returns what is read as a workdir: a folder, a network in a file, or one that comes with the package by zoo:NAME.

  Raises UserError for a name that no network of the package has.
  """
  if isinstance(workdir, Workdir):
    return workdir
  is_file = os.fspath(workdir).endswith(zoo.SUFFIX) and not os.path.isdir(workdir)
  return NetworkFile(workdir) if is_file or zoo.in_zoo(workdir) else Workdir(workdir)
