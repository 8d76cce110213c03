"""What a checkpoint holds beside its arrays, as a JSON file with a checksum of itself."""

import dataclasses
import json
import os
import zlib
from typing import Annotated, Any, TypedDict

import ml_collections
import numpy as np
from msgspec import Meta

from moonshine_jax import config as config_lib
from moonshine_jax.data.splits import Facts
from moonshine_jax.models import factory
from moonshine_jax.runtime import json_files

FILE = 'metadata'  # in the folder of the same name, which is one of a checkpoint's
MAX_FLOAT32 = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class Metadata:
  """What a checkpoint holds beside its trees of arrays.

  Attributes:
    step: training steps done.
    config: config of the run.
    facts: facts of its data.
    epoch_metrics: float32 (steps,) by name: metrics of the steps of an epoch whose record is not written yet.
    arrays: the shape and the CRC-32 of each array, by its path in the trees.
  """

  step: int
  config: ml_collections.ConfigDict
  facts: Facts
  epoch_metrics: dict[str, np.ndarray]
  arrays: dict[str, 'SavedArray']

  def to_json(self) -> dict[str, Any]:
    """Returns what the file holds."""
    values = {
      'config': config_lib.to_json(self.config),
      'data': self.facts.to_json(),
      'epoch_metrics': {name: values.tolist() for name, values in self.epoch_metrics.items()},
      'arrays': self.arrays,
    }
    return {**values, 'crc32': _crc32(values)}


class SavedArray(TypedDict):
  """The shape of an array, and the CRC-32 of its bytes."""

  shape: list[Annotated[int, Meta(ge=0)]]
  crc32: Annotated[int, Meta(ge=0, lt=2**32)]


class _Values(TypedDict):
  """The schema of the file."""

  config: dict[str, Any]
  data: Facts
  epoch_metrics: dict[str, list[Annotated[float, Meta(ge=-MAX_FLOAT32, le=MAX_FLOAT32)]]]
  arrays: dict[str, SavedArray]


def read_metadata(path: str | os.PathLike, step: int) -> Metadata:
  """Reads the metadata of a checkpoint.

  Args:
    path: of the file.
    step: of the checkpoint.

  Raises:
    UserError or ValueError, which say what is wrong: where the file cannot be read, is not what was written, is not of
      the schema, or has a config of which no network can be built.
  """
  written = json_files.parse_json(json_files.read_bytes(path), dict[str, Any])
  if written.pop('crc32', None) != _crc32(written):
    raise ValueError('its metadata are not those that were written')
  values = json_files.check_schema(written, _Values)
  config = config_lib.from_json(values['config'])
  if not factory.is_user_defined(config.model):  # whose function is looked for when the network is built
    factory.check_model(config.model)
  metrics = {name: np.asarray(metric, np.float32) for name, metric in values['epoch_metrics'].items()}
  if len({metric.shape for metric in metrics.values()}) > 1:
    raise ValueError('the metrics of the present epoch are not of as many steps')
  return Metadata(step, config, Facts.from_json(written['data']), metrics, values['arrays'])


def _crc32(values: dict[str, Any]) -> int:
  return zlib.crc32(json.dumps(values, sort_keys=True).encode())
