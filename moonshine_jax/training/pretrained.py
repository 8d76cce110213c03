"""A workdir of a network that was trained elsewhere, from which it is evaluated, distilled and reported."""

import copy
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from moonshine_jax import config as config_lib
from moonshine_jax.data.splits import CroppedSplit, Facts, Split
from moonshine_jax.errors import UserError, shown
from moonshine_jax.models.factory import create_network
from moonshine_jax.models.network import Network
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.training.evaluation import evaluate_split
from moonshine_jax.training.teacher import doubt_error
from moonshine_jax.workdir import metrics
from moonshine_jax.workdir.trained import Trained
from moonshine_jax.workdir.workdir import Workdir

EXPECTED_ERROR_ROUNDING = 0.05  # percentage points: half of the last digit of an error such as 4.8%


def write_network(
  workdir: str | os.PathLike,
  config: ml_collections.ConfigDict,
  facts: Facts,
  variables: Mapping[str, Any],
  test_split: Split | CroppedSplit | None = None,
  expected_error: float | None = None,
) -> dict[str, Any]:
  """Makes a workdir of a trained network, as training leaves one, for evaluation and as a teacher.

  Its config is for 0 epochs and without distillation, so that nothing goes on training in it. Called again with the
  same network it changes nothing.

  Args:
    workdir: a folder, made where there is none.
    config: of the form of `configs/cifar10.py`; its `model` builds the network, its `data` is what it is evaluated on.
    facts: the shape of the images, the number of classes, and the mean and the standard deviation, in the units of
      uint8, by which the network was trained to have its images normalised.
    variables: the model's variables, {'params': ..., 'batch_stats': ...}.
    test_split: the network is evaluated on it, for the error in tables and reports; None for no error.
    expected_error: the test error that the network has elsewhere, in percent; None for any.

  Returns:
    The record of epoch 0, as in `metrics.jsonl`: 'test_error' in percent and 'test_loss', where there is a test split.

  Raises:
    UserError: where the variables are not the model's, where one is not finite or a variance is negative, where the
      test loss is not finite or the test error not the expected one, and where the workdir holds another network.
  """
  config = config_of_pretrained(config)
  config_lib.check(config)
  network = create_network(config.model, facts)
  variables = fit(variables, network, facts.image_shape)
  workdir = Workdir(workdir)
  check_same_network(workdir, config, variables, facts)
  if workdir.begun:
    check_expected_error(workdir.records[-1], expected_error, test_split)
    return workdir.records[-1]

  record: dict[str, Any] = {'epoch': 0, 'step': 0}
  if test_split is not None:
    record |= evaluate_split(network, variables, test_split, config, Replicas(), str(workdir))
    doubt_error(record['test_error'], facts.num_classes, len(test_split))
  check_expected_error(record, expected_error, test_split)
  save_network(workdir, config, facts, variables, record)
  return record


def save_network(
  workdir: str | os.PathLike,
  config: ml_collections.ConfigDict,
  facts: Facts,
  variables: dict[str, Any],
  record: dict[str, Any],
) -> None:
  """Makes the workdir of a network; see `write_network`.

  Args:
    workdir: a folder, made where there is none.
    config: as `config_of_pretrained` returns it.
    facts: of its data, with its normalisation.
    variables: host arrays in the tree of the network.
    record: of epoch 0.
  """
  workdir = Workdir(workdir)
  with workdir.lock():
    checkpoints = workdir.checkpoints(create=True)
    checkpoints.go_back(-1)  # what a call that was stopped has left
    progress = {'step': np.zeros((), np.int32), 'opt_state': {}, 'rng': np.zeros(2, np.uint32)}
    checkpoints.save(0, {'variables': variables, 'progress': progress}, config, facts, {})
    checkpoints.close()
    metrics.write(workdir, [record])
    workdir.begin(config, facts, step=0)  # the last: it stands for all of them


def normalised_by(measured: Facts, mean: Any, std: Any) -> Facts:
  """Returns the facts of data with the normalisation that a network was trained with.

  Args:
    measured: facts of the data.
    mean: what the network subtracts from each channel of the pixels, a number or one for each channel, in the units of
      uint8; None for the mean of the data.
    std: by what it then divides them; None for the standard deviation of the data.

  Raises:
    UserError: where these are not as many as the channels, or cannot be of pixels from 0 to 255.
  """
  channels = measured.image_shape[-1]
  facts = dataclasses.replace(
    measured,
    mean=measured.mean if mean is None else _for_channels('mean', mean, channels),
    std=measured.std if std is None else _for_channels('std', std, channels),
  )
  for shift, scale, own_shift, own_scale in zip(facts.mean, facts.std, measured.mean, measured.std, strict=True):
    # No network has its pixels spread over more than 255, if these are not of a few values alone; and a mean below 1 is
    # one of pixels from 0 to 1, if these are not almost black. A mean of 0 and a std of 1 leave the pixels as they are.
    if scale < min(1, own_scale / 4) or 0 < shift < min(1, own_shift / 4):
      raise UserError(
        f'{_described(facts.mean, facts.std)}: expected the units of the pixels, from 0 to 255, as '
        f'{_described(measured.mean, measured.std)} of these images: if they are of pixels from 0 to 1, '
        f'{_described(facts.mean, facts.std, 255)}'
      )
  return facts


def _for_channels(name: str, value: Any, channels: int) -> tuple[float, ...]:
  """Returns the number for each channel. Raises UserError for what is none of pixels from 0 to 255."""
  try:
    numbers = np.ravel(np.asarray(value, float)).tolist()
  except (TypeError, ValueError):
    numbers = []
  if len(numbers) not in (1, channels) or not are_of_pixels(name, numbers, 255):
    raise UserError(
      f'{name}={shown(value)}: expected one number{f", or {channels}, one for each channel" if channels > 1 else ""}, '
      f'{"above 0 and at most" if name == "std" else "from 0 to"} 255, in the units of the pixels'
    )
  return tuple(numbers if len(numbers) == channels else numbers * channels)


def _described(mean: Sequence[float], std: Sequence[float], factor: int = 1) -> str:
  return ', '.join(
    f'{name}=' + ','.join(f'{factor * value:.4g}' for value in values)
    for name, values in (('mean', mean), ('std', std))
  )


def are_of_pixels(name: str, numbers: Sequence[float], white: float) -> bool:
  """Returns whether numbers can be the 'mean', or the 'std', of the pixels from 0 to `white` of each channel."""
  return all(0 <= number <= white and (name == 'mean' or number > 0) for number in numbers)


def check_expected_error(
  record: Mapping[str, Any], expected_error: float | None, test_split: Split | CroppedSplit | None
) -> None:
  """Raises UserError where the test error differs from the expected one by more than its rounding, and one image."""
  if expected_error is None or test_split is None:
    return
  allowed = max(EXPECTED_ERROR_ROUNDING, 100 / len(test_split)) + 1e-6
  if not abs(record['test_error'] - expected_error) <= allowed:
    raise UserError(
      f'test error {record["test_error"]:.2f}%: expected {expected_error:.2f}%: the images, their normalisation or a '
      "part of the network that no name tells (BN's epsilon, the activation, where a shortcut begins) are not those "
      'that it was trained with'
    )


def config_of_pretrained(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns a copy of the config for a network that nothing trains on."""
  config = copy.deepcopy(config)
  config.update_from_flattened_dict(
    {'epochs': 0, 'distill.teacher': '', 'distill.students': (), 'distill.start': '', 'distill.blockwise': False}
  )
  return config


def check_same_network(
  workdir: str | os.PathLike, config: ml_collections.ConfigDict, variables: Any, facts: Facts | None = None
) -> None:
  """Raises UserError where the workdir holds anything but this network, and these facts if there are any."""
  workdir = Workdir(workdir)
  workdir.check(config)
  if workdir.begun:
    saved = Trained.open(workdir)
    if facts:
      workdir.check_data(facts)
    same = jax.tree.all(jax.tree.map(np.array_equal, saved.variables, variables))
    if (facts and (facts.mean, facts.std) != (saved.facts.mean, saved.facts.std)) or not same:
      raise UserError(f'{workdir} holds a network with other variables: expected the same, or another workdir')


def fit(variables: Mapping[str, Any], network: Network, image_shape: tuple[int, ...]) -> dict[str, Any]:
  """Returns variables as host arrays in the tree of the network. Raises UserError for the first that does not fit."""
  like = network.shapes(image_shape)
  arrays = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(dict(variables))}
  expected = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(like)}
  for path in sorted(arrays.keys() ^ expected.keys()):
    raise UserError(
      f'the variables are not those of the network: {path} is '
      f'{"missing" if path in expected else "not in it"} (of {len(expected)} arrays; {len(arrays)} given)'
    )
  for path, leaf in expected.items():
    values = np.asarray(arrays[path], np.float32)
    if not np.isfinite(values).all():
      raise UserError(f'the variables are not those of a trained network: {path} is not finite')
    if path.startswith("['batch_stats']") and path.endswith(("var']", "variance']")) and (values < 0).any():
      raise UserError(
        f'the variables are not those of a trained network: {path} has a negative number, {values.min():.3g}: '
        'expected variances, of 0 and more'
      )
    if np.shape(arrays[path]) != leaf.shape:
      raise UserError(
        f'the variables are not those of the network: {path} has the shape {np.shape(arrays[path])}: '
        f'expected {leaf.shape}'
      )
  return jax.tree.map_with_path(
    lambda path, leaf: np.asarray(arrays[jax.tree_util.keystr(path)]).astype(leaf.dtype), like
  )
