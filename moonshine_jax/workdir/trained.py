"""A trained network, rebuilt from its workdir."""

import dataclasses
import functools
import os
from typing import Any

import ml_collections

from moonshine_jax.data import sources
from moonshine_jax.data.splits import Facts
from moonshine_jax.models.factory import create_network
from moonshine_jax.models.network import Network
from moonshine_jax.workdir.checkpoint import Checkpoints
from moonshine_jax.workdir.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Trained:
  """A trained network.

  Attributes:
    workdir: workdir of its run.
    step: training steps done.
    config: config of the run.
    facts: facts of the data that it was trained on.
    variables: the network's variables, host arrays.
  """

  workdir: Workdir
  step: int
  config: ml_collections.ConfigDict
  facts: Facts
  variables: dict[str, Any]

  @classmethod
  def open(cls, workdir: str | os.PathLike) -> 'Trained':
    """Returns the network of the newest checkpoint of a workdir. Raises UserError where there is no good checkpoint."""
    variables, metadata = Checkpoints(workdir).restore_variables()
    return cls(Workdir(workdir), metadata.step, metadata.config, metadata.facts, variables)

  @functools.cached_property
  def network(self) -> Network:
    """The network for one device: `network(variables, images, train=False)` gives (logits, activations).

    Images are uint8 (batch, height, width, channels). `network.model` is the linen module, which is called with images
    less `network.mean` and over `network.std`.
    """
    return create_network(self.config.model, self.facts)

  @property
  def record(self) -> dict[str, Any]:
    """The metrics of the last epoch: 'test_error' in percent, and the others of `metrics.jsonl`."""
    return self.workdir.records[-1]

  def source(self, data_dir: str | None = None) -> sources.Source:
    """Opens the data that the network was trained on.

    Args:
      data_dir: where it is, in place of the config's `data.data_dir`.

    Raises:
      UserError: where there is no such data, or its images or classes have changed.
    """
    config = self.config.data.copy_and_resolve_references()
    if data_dir is not None:
      config.data_dir = data_dir
    return sources.reopen_source(config, self.facts, self.workdir)
