"""The arrays of a state dict, from a file of `torch.save` or of safetensors. Nothing that a file holds is ever run."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moonshine_jax.errors import UserError, shown

WRAPPERS = ('state_dict', 'model_state_dict', 'net', 'model')  # what checkpoints keep the state dict under
PREFIXES = ('module.', '_orig_mod.')  # of DataParallel and of torch.compile
HOW_TO_SAVE = "expected a state dict: in PyTorch, torch.save(model.state_dict(), 'weights.pt')"


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The arrays by name, float32, without wrappers, prefixes and BN's `num_batches_tracked`. Raises UserError."""
  if not Path(path).is_file():
    raise UserError(f'{path}: no such file: {HOW_TO_SAVE}')
  values = _read_safetensors(path) if str(path).endswith('.safetensors') else _read_torch(path)
  for prefix in PREFIXES:
    while all(name.startswith(prefix) for name in values):
      values = {name.removeprefix(prefix): value for name, value in values.items()}
  return {name: value for name, value in values.items() if not name.endswith('.num_batches_tracked')}


def _read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
  try:
    from safetensors.numpy import load_file
  except ImportError as error:
    raise UserError(f"{path}: reading it needs safetensors: pip install 'moonshine-jax[torch]'") from error
  try:
    values = {name: np.asarray(value, np.float32) for name, value in load_file(path).items()}
  except Exception as error:  # safetensors' own, and KeyError for a type that NumPy has not
    raise UserError(
      f'{path}: not a safetensors file that can be read ({shown(error)}): expected float32 arrays'
    ) from error
  return values or _refuse(path, 'nothing is in it')


def _read_torch(path: str | os.PathLike) -> dict[str, np.ndarray]:
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
    if found := re.search(r'GLOBAL (\S+)', str(error)):
      _refuse(path, f'it holds a Python object ({found[1]}), and reading that would run its code', error)
    _refuse(path, f'not a file of torch.save that can be read ({type(error).__name__})', error)
  for wrapper in WRAPPERS:
    if isinstance(values, Mapping) and isinstance(values.get(wrapper), Mapping):
      values = values[wrapper]
      break
  if not isinstance(values, Mapping) or not values:
    _refuse(path, f'it holds {shown(values) if isinstance(values, Mapping) else "a " + type(values).__name__}')
  other = [
    name
    for name, value in values.items()
    if not isinstance(name, str)
    or not isinstance(value, torch.Tensor)
    or value.layout != torch.strided
    or value.is_quantized
  ]
  if other:
    _refuse(path, f'{shown(other[0])} is no dense tensor, and none of {", ".join(WRAPPERS)} is there')
  return {name: value.detach().float().numpy() for name, value in values.items()}


def _refuse(path: str | os.PathLike, reason: str, error: Exception | None = None) -> Any:
  raise UserError(f'{path}: {reason}: {HOW_TO_SAVE}') from error
