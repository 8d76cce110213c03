"""A network that was trained in PyTorch, as a workdir that `evaluate` and distillation take."""

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
from moonshine_jax.import_torch import architectures, state_dict
from moonshine_jax.models.factory import create_model
from moonshine_jax.models.factory import name as name_of
from moonshine_jax.training import pretrained

# By which torchvision's networks have their images normalised, of pixels from 0 to 1.
TORCHVISION_MEAN, TORCHVISION_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The axes of PyTorch's arrays in the order of Flax's, by their number: of the kernel of a convolution, which is
# (out, in, height, width), of that of a linear layer, (out, in), and of a vector.
AXES = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}

# The data that a network is nearly surely of, by the name of its file in configs/: by network and number of classes.
USUAL = {('wide_resnet', 10): 'cifar10', ('wide_resnet', 100): 'cifar100', ('resnet', 1000): 'imagenet'}


def import_network(
  path: str | os.PathLike,
  config: ml_collections.ConfigDict | None,
  workdir: str | os.PathLike,
  normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> tuple[ml_collections.ConfigDict, splits.Facts, dict[str, Any]]:
  """Makes a workdir of the network of a PyTorch state dict, and evaluates it.

  Args:
    path: of a file of `torch.save` or of safetensors.
    config: of the form of `configs/cifar10.py`: says which data the network is of, and `model.dtype`; the rest of
      `model` is what the file says. None for `usual_config`.
    workdir: a folder, made where there is none; refused before the data is read where it holds anything else.
    normalisation: mean and standard deviation of each channel, of pixels from 0 to 1, by which the network was trained
      to have its images normalised. Without them: torchvision's for a ResNet, else those of the training images.

  Returns:
    The workdir's config, the facts of its data, and the record of `given.write_network`.

  Raises:
    UserError: for a file that holds no state dict of a network that is known, or none of this data.
  """
  arrays = state_dict.read(path)
  try:
    model, paths = architectures.recognise(arrays)
    found = len(arrays['fc.weight']), arrays['conv1.weight'].shape[1]
    config = pretrained.as_given(usual_config(path, model, *found) if config is None else config)
    config.model.update(model)
    config_lib.check(config)
    image = jax.ShapeDtypeStruct((1, 32, 32, found[1]), np.float32)  # on whose size no variable depends
    like = jax.eval_shape(create_model(config.model, found[0]).init, jax.random.key(0), image)
    variables = variables_of(arrays, paths, like)
    pretrained.check_workdir(workdir, config, variables)
    source = sources.open_source(config.data)
    image_shape, num_classes = source.image_shape, source.num_classes
    if found != (num_classes, image_shape[-1]):
      raise ValueError(
        f'for {found[0]} classes and images of {found[1]} channels: data set {config.data.name} has '
        f'{num_classes} classes and images of {image_shape}'
      )
  except ValueError as error:
    raise UserError(f'{path}: {error}') from error

  if normalisation is None and config.model.network == 'resnet':
    normalisation = TORCHVISION_MEAN, TORCHVISION_STD
  if normalisation is None:
    facts = sources.measure(source, source.read(config.data.train_split))
  else:
    if any(len(values) != image_shape[-1] for values in normalisation):
      raise UserError(f'--mean and --std: expected {image_shape[-1]} numbers each, one for each channel of an image')
    mean, std = (tuple(255 * each for each in values) for values in normalisation)
    facts = splits.Facts(image_shape, num_classes, mean, std)
  record = pretrained.write_network(workdir, config, facts, variables, source.read(config.data.test_split))
  return config, facts, record


def usual_config(
  path: str | os.PathLike, model: dict[str, str | int], num_classes: int, channels: int
) -> ml_collections.ConfigDict:
  """The config of the data that such a network is nearly surely of, with a line that says which was taken.

  Raises UserError where it may be of any, and where `configs/` is not on Python's path.
  """
  what = f'{path}, a {name_of(ml_collections.ConfigDict(model))} for {num_classes} classes and {channels} channels,'
  name = USUAL.get((model['network'], num_classes)) if channels == 3 else None
  if name is None:
    raise UserError(f'--config is missing: {what} may be of any data: expected the config of its own')
  try:
    module = importlib.import_module(f'configs.{name}')
  except ModuleNotFoundError as error:
    raise UserError(
      f'--config is missing: {what} would be of configs/{name}.py, which Python does not find from here: '
      'expected its path'
    ) from error
  warn(f'{what} is taken to be of this data: --config={module.__file__}')
  return module.get_config()


def variables_of(arrays: architectures.Arrays, paths: dict[str, architectures.Path], like: Any) -> dict[str, Any]:
  """The variables of a Flax module from a state dict whose arrays go to these paths.

  Raises ValueError, with their names, for arrays of other shapes than those of `like`.
  """
  shapes = {path: leaf.shape for path, leaf in traverse_util.flatten_dict(like).items()}
  variables, unlike = {}, []
  for name, path in paths.items():
    axes = AXES[arrays[name].ndim]
    variables[path] = arrays[name].transpose(axes)
    if variables[path].shape != shapes[path]:
      expected = tuple(shapes[path][axis] for axis in np.argsort(axes))
      unlike.append(f'{name} {arrays[name].shape} in place of {expected}')
  architectures.refuse({'of other shapes': unlike})
  return traverse_util.unflatten_dict(variables)
