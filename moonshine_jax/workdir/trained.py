"""A trained network, rebuilt from its workdir."""

import dataclasses
import functools
import os
from typing import Any

import ml_collections

from moonshine_jax.data import names, sources
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError
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
    refusal: why the function of its data is not called; empty where it may be, or there is none.
  """

  workdir: Workdir
  step: int
  config: ml_collections.ConfigDict
  facts: Facts
  variables: dict[str, Any]
  refusal: str = ''

  @classmethod
  def open(cls, workdir: str | os.PathLike, trust_code: bool = False) -> 'Trained':
    """Opens the network of the newest checkpoint of a workdir.

    Args:
      workdir: of a run.
      trust_code: whether user-defined functions that the workdir names are loaded, which runs their files, though they
        lie in the workdir, were not recorded as its run began, have changed, or were never named by this user.

    Raises:
      UserError: where there is no good checkpoint, and where the network is of such a function.
    """
    workdir = Workdir(workdir)
    variables, metadata = Checkpoints(workdir).restore_variables(
      lambda config: workdir.check_code(config.model.network, trust_code)
    )
    refusal = ''
    try:
      if names.is_function(metadata.config.data.name):
        workdir.check_code(metadata.config.data.name, trust_code)
    except UserError as error:  # which matters only to those who need the data
      refusal = str(error)
    return cls(workdir, metadata.step, metadata.config, metadata.facts, variables, refusal)

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

  @property
  def test_error(self) -> float | None:
    """The newest test error in percent that the workdir records; None where the network was not evaluated."""
    errors = [record['test_error'] for record in self.workdir.records if 'test_error' in record]
    return errors[-1] if errors else None

  def source(self, data_dir: str | None = None) -> sources.Source:
    """Opens the data that the network was trained on.

    Args:
      data_dir: where it is, in place of the config's `data.data_dir`.

    Raises:
      UserError: where there is no such data, its images or classes have changed, or its function is not trusted.
    """
    if self.refusal:
      raise UserError(self.refusal)
    config = self.config.data.copy_and_resolve_references()
    if data_dir is not None:
      config.data_dir = data_dir
    return sources.reopen_source(config, self.facts, self.workdir)
