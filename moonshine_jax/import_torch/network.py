"""Makes a workdir of a network that was trained in PyTorch, which `evaluate` and distillation take."""

import importlib
import os
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import traverse_util

from moonshine_jax import config as config_lib
from moonshine_jax.data import sources, splits
from moonshine_jax.errors import UserError, warn
from moonshine_jax.import_torch import architectures
from moonshine_jax.import_torch.state_dict import read_state_dict
from moonshine_jax.models.factory import create_model, network_name
from moonshine_jax.training import pretrained

# By which torchvision's networks have their images normalised, of pixels from 0 to 1.
TORCHVISION_MEAN, TORCHVISION_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The axes of PyTorch's arrays in the order of Flax's, by their number: of the kernel of a convolution, which is
# (out, in, height, width), of that of a linear layer, (out, in), and of a vector.
AXES = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}

# The config of the data that a network is almost certainly of, by network and number of classes.
USUAL_CONFIGS = {('wide_resnet', 10): 'cifar10', ('wide_resnet', 100): 'cifar100', ('resnet', 1000): 'imagenet'}

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std of each channel, of pixels from 0 to 1


def import_network(
  path: str | os.PathLike,
  config: ml_collections.ConfigDict | None,
  workdir: str | os.PathLike,
  normalisation: Normalisation | None = None,
  state: str | None = None,
  expected_error: float | None = None,
) -> tuple[ml_collections.ConfigDict, splits.Facts, dict[str, Any]]:
  """Makes a workdir of the network of a PyTorch state dict, and evaluates it.

  Args:
    path: of a file of `torch.save` or of safetensors.
    config: of the form of `configs/cifar10.py`: says which data the network is of, and `model.dtype`; the rest of
      `model` is what the file says. None for the config that `choose_config` takes.
    workdir: a folder, made where there is none; refused before the data is read where it holds anything else.
    normalisation: mean and standard deviation of each channel, of pixels from 0 to 1, by which the network was trained
      to have its images normalised. Without them: torchvision's for a ResNet, else those of the training images.
    state: the key under which the file holds the network, as `read_state_dict` takes it.
    expected_error: the test error in percent that the network has in PyTorch; None for any.

  Returns:
    The workdir's config, the facts of its data, and the record of `pretrained.write_network`.

  Raises:
    UserError: for a file that holds no state dict of a network that is known, or none of this data, and for a network
      of another test error than expected. Nothing is written then.
  """
  arrays = read_state_dict(path, state)
  try:
    model, paths = architectures.recognise(arrays)
    num_classes, channels = len(arrays['fc.weight']), arrays['conv1.weight'].shape[1]
    if config is None:
      config = choose_config(path, model, num_classes, channels)
    config = pretrained.config_of_pretrained(config)
    config.model.update(model)
    config_lib.check(config)
    image = jax.ShapeDtypeStruct((1, 32, 32, channels), np.float32)  # no variable depends on height and width
    like = jax.eval_shape(create_model(config.model, num_classes).init, jax.random.key(0), image)
    variables = convert_variables(arrays, paths, like)
    pretrained.check_same_network(workdir, config, variables)
    source = sources.open_source(config.data)
    if (num_classes, channels) != (source.num_classes, source.image_shape[-1]):
      raise ValueError(
        f'for {num_classes} classes and images of {channels} channels: data set {config.data.name} has '
        f'{source.num_classes} classes and images of {source.image_shape}'
      )
  except ValueError as error:
    raise UserError(f'{path}: {error}') from error

  test = source.read(config.data.test_split)
  facts = _facts_of(source, config, normalisation, test)
  record = pretrained.write_network(workdir, config, facts, variables, test, expected_error)
  return config, facts, record


def _facts_of(
  source: sources.Source,
  config: ml_collections.ConfigDict,
  normalisation: Normalisation | None,
  test: splits.Split | splits.CroppedSplit,
) -> splits.Facts:
  """Returns the facts of the data with the normalisation of the network's images. Raises UserError."""
  if normalisation is None and config.model.network == 'resnet':
    normalisation = TORCHVISION_MEAN, TORCHVISION_STD
  if normalisation is None:
    return sources.measure_facts(source, source.read(config.data.train_split), test)
  channels = source.image_shape[-1]
  if any(len(values) != channels for values in normalisation):
    raise UserError(f'--mean and --std: expected {channels} numbers each, one for each channel of an image')
  mean, std = (tuple(255 * value for value in values) for values in normalisation)
  classes = tuple(source.classes)
  return splits.Facts(source.image_shape, source.num_classes, mean, std, classes, test=sources.fingerprint(test))


def choose_config(
  path: str | os.PathLike, model: dict[str, str | int], num_classes: int, channels: int
) -> ml_collections.ConfigDict:
  """Returns the config of the data that such a network is almost certainly of, and prints which it is.

  Args:
    path: of the state dict, for the messages.
    model: the fields of `config.model` that say which network it is.
    num_classes: of its logits.
    channels: of its images.

  Returns:
    One of the configs in USUAL_CONFIGS.

  Raises:
    UserError: where the network may be of any data.
  """
  network = network_name(ml_collections.ConfigDict(model))
  what = f'{path}, a {network} for {num_classes} classes and {channels} channels,'
  name = USUAL_CONFIGS.get((str(model['network']), num_classes)) if channels == 3 else None
  if name is None:
    raise UserError(
      f'--config is missing: {what} may be of any data: expected the config of the data it was trained on'
    )
  warn(f'{what} is taken to be of this data: --config={name}')
  return importlib.import_module(f'moonshine_jax.configs.{name}').get_config()


def convert_variables(arrays: architectures.Arrays, paths: dict[str, architectures.Path], like: Any) -> dict[str, Any]:
  """Converts the arrays of a state dict to the variables of a Flax module.

  Args:
    arrays: of the state dict, by name.
    paths: where each array goes in the variables, by its name.
    like: the shapes of the variables.

  Returns:
    The variables, {'params': ..., 'batch_stats': ...}.

  Raises:
    ValueError: for arrays of other shapes than those of `like`, with their names.
  """
  shapes = {path: leaf.shape for path, leaf in traverse_util.flatten_dict(like).items()}
  variables, mismatches = {}, []
  for name, path in paths.items():
    axes = AXES[arrays[name].ndim]
    variables[path] = arrays[name].transpose(axes)
    if variables[path].shape != shapes[path]:
      expected = tuple(shapes[path][axis] for axis in np.argsort(axes))
      mismatches.append(f'{name} {arrays[name].shape} in place of {expected}')
  architectures.refuse({'of other shapes': mismatches})
  return traverse_util.unflatten_dict(variables)
