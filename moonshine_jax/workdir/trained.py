"""A trained network, rebuilt from its workdir or from its file."""

import copy
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
from moonshine_jax.workdir.network_file import open_workdir
from moonshine_jax.workdir.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Trained:
  """A trained network.

  Attributes:
    workdir: workdir of its run, or the file that it was read from.
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
    """Opens a network: of the newest checkpoint of a workdir, or of a file.

    Args:
      workdir: of a run; or what stands for one, as `open_workdir` takes it.
      trust_code: whether user-defined functions that the workdir names are loaded, which runs their files, though they
        lie in the workdir, were not recorded as its run began, have changed, or were never named by this user.

    Raises:
      UserError: where there is no good checkpoint, and where the network is of such a function.
    """
    workdir = open_workdir(workdir)
    variables, metadata = workdir.restore_variables(lambda config: workdir.check_code(config.model.network, trust_code))
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

  def with_data(self, name: str | None, data_dir: str | None = None) -> 'Trained':
    """Returns the network with its data elsewhere.

    Args:
      name: another name of the data, perhaps in another order, as the user gave it; None for the config's `data.name`.
      data_dir: where the data is; None for the config's `data.data_dir`, or '' with another name.
    """
    config, facts, refusal = copy.deepcopy(self.config), self.facts, self.refusal
    if name is not None:
      config.data.name, config.data.data_dir, refusal = name, '', ''
      facts = dataclasses.replace(facts, train='', test='')  # fingerprints tell one order from another
    if data_dir is not None:
      config.data.data_dir = data_dir
    return dataclasses.replace(self, config=config, facts=facts, refusal=refusal)

  def source(self) -> sources.Source:
    """Opens the data that the network was trained on.

    Raises:
      UserError: where there is no such data, its images or classes have changed, or its function is not trusted.
    """
    if self.refusal:
      raise UserError(self.refusal)
    return sources.reopen_source(self.config.data, self.facts, self.workdir)
