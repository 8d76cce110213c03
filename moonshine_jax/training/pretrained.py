"""Networks that were trained elsewhere: a workdir of one, from which it is evaluated, distilled and reported."""

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from moonshine_jax import config as config_lib
from moonshine_jax.data.splits import Facts, Split
from moonshine_jax.errors import UserError
from moonshine_jax.models.factory import create_network
from moonshine_jax.models.network import Network
from moonshine_jax.runtime import files
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.training import evaluation
from moonshine_jax.training import step as step_lib
from moonshine_jax.workdir import checkpoint, metrics, provenance
from moonshine_jax.workdir import workdir as workdir_lib


def write_network(
  workdir: str | os.PathLike,
  config: ml_collections.ConfigDict,
  facts: Facts,
  variables: Mapping[str, Any],
  test_split: Split | None = None,
) -> dict[str, Any]:
  """Makes a workdir of a network with given variables, as training leaves one, for evaluation and as a teacher.

  Its config is the one given, for 0 epochs and without distillation, so that nothing goes on training in it. Called
  again with the same network it changes nothing.

  Args:
    workdir: a folder, made where there is none.
    config: of the form of `configs/cifar10.py`; its `model` builds the network, its `data` is what it is evaluated on.
    facts: the shape of the images, the number of classes, and the mean and the standard deviation, in the units of
      uint8, by which the network was trained to have its images normalised.
    variables: of the model, {'params': ..., 'batch_stats': ...}.
    test_split: evaluated, for the error in tables and reports; None where there is no data: it has none there.

  Returns:
    The record of epoch 0, as in `metrics.jsonl`: 'test_error' in percent and 'test_loss', where there is a test split.

  Raises:
    UserError: where the variables are not the model's, and where the workdir holds another network.
  """
  config = as_given(config)
  config_lib.check(config)
  network = create_network(config.model, facts)
  variables = fit(variables, network, facts.image_shape)
  workdir = Path(workdir)
  check_workdir(workdir, config, variables, facts)
  if (workdir / workdir_lib.FILE).exists():
    return metrics.read(workdir)[-1]

  record = {'epoch': 0, 'step': 0}
  if test_split is not None:
    record |= evaluation.evaluate_split(network, variables, test_split, config, Replicas())
  with files.lock(workdir):
    checkpoints = checkpoint.Checkpoints(workdir, create=True)
    checkpoints.go_back(-1)  # what a call that was stopped has left
    state = step_lib.TrainState(
      np.zeros((), np.int32), variables['params'], variables.get('batch_stats', {}), {}, np.zeros(2, np.uint32)
    )
    checkpoints.save(state, config, facts, {})
    checkpoints.close()
    provenance.record_start(workdir, config, facts, 0)
    files.write_atomically(workdir / metrics.FILE, json.dumps(record) + '\n')
    workdir_lib.write(config, workdir)  # the last: it stands for all of them
  return record


def as_given(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """A copy of the config, of a network that nothing trains on."""
  config = copy.deepcopy(config)
  config.update_from_flattened_dict({'epochs': 0, 'distill.teacher': '', 'distill.students': ()})
  return config


def check_workdir(
  workdir: str | os.PathLike, config: ml_collections.ConfigDict, variables: Any, facts: Facts | None = None
) -> None:
  """Raises UserError where the workdir holds anything but this network, and these facts if there are any."""
  workdir_lib.check_workdir(config, workdir)
  if (Path(workdir) / workdir_lib.FILE).exists():
    _, there, metadata = checkpoint.Checkpoints(workdir).network()
    if facts not in (None, metadata.facts) or not jax.tree.all(jax.tree.map(np.array_equal, there, variables)):
      raise UserError(f'{workdir} holds a network with other variables: expected the same, or another workdir')


def fit(variables: Mapping[str, Any], network: Network, image_shape: tuple[int, ...]) -> dict[str, Any]:
  """The variables as host arrays in the model's own tree. Raises UserError, naming the first that is not of it."""
  like = network.shapes(image_shape)
  given = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(dict(variables))}
  expected = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(like)}
  for path in sorted(given.keys() ^ expected.keys()):
    raise UserError(
      f'the variables are not those of the network: {path} is '
      f'{"missing" if path in expected else "not in it"} (of {len(expected)} arrays; {len(given)} given)'
    )
  for path, leaf in expected.items():
    if np.shape(given[path]) != leaf.shape:
      raise UserError(
        f'the variables are not those of the network: {path} has the shape {np.shape(given[path])}: '
        f'expected {leaf.shape}'
      )
  return jax.tree.map_with_path(
    lambda path, leaf: np.asarray(given[jax.tree_util.keystr(path)]).astype(leaf.dtype), like
  )
