"""Reads the arrays of a state dict from a file of `torch.save` or of safetensors.

No code that a file holds is ever run.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np

from moonshine_jax.errors import UserError, shown

WRAPPER_KEYS = ('state_dict', 'model_state_dict', 'net', 'model')  # under which checkpoints keep the state dict
PREFIXES = ('module.', '_orig_mod.')  # that DataParallel and torch.compile put before names
HOW_TO_SAVE = "expected a state dict: in PyTorch, torch.save(model.state_dict(), 'weights.pt')"


def read_state_dict(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads the arrays of a state dict, without wrappers, prefixes and BN's `num_batches_tracked`.

  Args:
    path: a file of `torch.save`, or of safetensors where its name ends in `.safetensors`.

  Returns:
    float32 arrays by name.

  Raises:
    UserError: where there is no such file, where it holds no state dict, and where reading it would run code or needs
      a library that is not installed.
  """
  if not Path(path).is_file():
    raise UserError(f'{path}: no such file: {HOW_TO_SAVE}')
  values = _read_safetensors(path) if str(path).endswith('.safetensors') else _read_torch(path)
  for prefix in PREFIXES:
    while all(name.startswith(prefix) for name in values):
      values = {name.removeprefix(prefix): value for name, value in values.items()}
  return {name: value for name, value in values.items() if not name.endswith('.num_batches_tracked')}


def _read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads a file of safetensors. Raises UserError."""
  try:
    from safetensors.numpy import load_file
  except ImportError as error:
    raise UserError(f"{path}: reading it needs safetensors: pip install 'moonshine-jax[torch]'") from error
  try:
    values = {name: np.asarray(value, np.float32) for name, value in load_file(path).items()}
  except Exception as error:  # SafetensorError, and KeyError for a dtype that NumPy lacks
    raise UserError(
      f'{path}: not a safetensors file that can be read ({shown(error)}): expected float32 arrays'
    ) from error
  if not values:
    _refuse(path, 'nothing is in it')
  return values


def _read_torch(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads a file of `torch.save`, of tensors alone. Raises UserError."""
  try:
    import torch
  except ImportError as error:
    raise UserError(
      f"{path}: reading it needs PyTorch: pip install 'moonshine-jax[torch]'; or save the state dict by "
      'safetensors.torch.save_file'
    ) from error
  try:
    values = torch.load(path, map_location='cpu', weights_only=True)
  except Exception as error:  # whatever unpickling meets in a file that it refuses, or that is torn
    if global_name := re.search(r'GLOBAL (\S+)', str(error)):
      _refuse(path, f'it holds a Python object ({global_name[1]}), and reading that would run its code', error)
    _refuse(path, f'not a file of torch.save that can be read ({type(error).__name__})', error)
  for wrapper in WRAPPER_KEYS:
    if isinstance(values, Mapping) and isinstance(values.get(wrapper), Mapping):
      values = values[wrapper]
      break
  if not isinstance(values, Mapping) or not values:
    _refuse(path, f'it holds {shown(values) if isinstance(values, Mapping) else "a " + type(values).__name__}')
  not_tensors = [
    name
    for name, value in values.items()
    if not isinstance(name, str)
    or not isinstance(value, torch.Tensor)
    or value.layout != torch.strided
    or value.is_quantized
  ]
  if not_tensors:
    _refuse(path, f'{shown(not_tensors[0])} is no dense tensor, and none of {", ".join(WRAPPER_KEYS)} is there')
  return {name: value.detach().float().numpy() for name, value in values.items()}


def _refuse(path: str | os.PathLike, reason: str, error: Exception | None = None) -> NoReturn:
  """Raises UserError for a file that holds no state dict."""
  raise UserError(f'{path}: {reason}: {HOW_TO_SAVE}') from error
