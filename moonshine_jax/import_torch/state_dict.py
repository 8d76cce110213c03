"""Reads the arrays of a state dict from a file of `torch.save` or of safetensors.

No code that a file holds is ever run.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import safetensors.numpy

from moonshine_jax.errors import UserError, say, shown, warn

# A state dict may stand anywhere in a file, under keys as 'state_dict/' and prefixes as 'module.': all that is before
# the first name of a group of blocks. Some wrappers stand within names too.
FIRST_BLOCKS = re.compile(r'(?:^|(?<=[./]))(?:block1|layer1)\.')
WRAPPERS = re.compile(r'(?:^|(?<=[./]))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.')
# Names of what is no layer: counters of BN, and of the networks that AveragedModel has averaged.
COUNTERS = re.compile(r'(?:^|\.)(?:num_batches_tracked|n_averaged)$')
# Keys of networks beside the one that was trained: averages of its weights, teachers, and the optimiser's arrays.
COMPANIONS = re.compile(r'ema|averag|swa|teacher|target|momentum|optim')
HOW_TO_SAVE = "expected a state dict: in PyTorch, torch.save(model.state_dict(), 'weights.pt')"


def read_state_dict(path: str | os.PathLike, state: str | None = None) -> dict[str, np.ndarray]:
  """Reads the arrays of a state dict, without wrappers, prefixes and counters.

  What is left out of the names is printed, and where the file holds several networks, which one is taken.

  Args:
    path: a file of `torch.save`, or of safetensors where its name ends in `.safetensors`.
    state: the key, or the keys joined by '.', under which the file holds the network, as 'state_dict_ema'. None for the
      first that is neither an average nor a teacher by its name.

  Returns:
    float32 arrays by name.

  Raises:
    UserError: where there is no such file, where it holds no state dict, or none under the key, and where reading it
      would run code or needs a library that is not installed.
  """
  if not Path(path).is_file():
    raise UserError(f'{path}: no such file: {HOW_TO_SAVE}')
  leaves = _read_safetensors(path) if str(path).endswith('.safetensors') else _read_torch(path)
  leaves = {name: leaf for name, leaf in leaves.items() if not COUNTERS.search(name)}
  prefixes = _find_prefixes(leaves)
  prefix = _choose_prefix(path, leaves, prefixes, state)
  others = tuple(other for other in prefixes.values() if len(other) > len(prefix))
  arrays: dict[str, np.ndarray] = {}
  for name, leaf in leaves.items():
    if name.startswith(prefix) and not name.startswith(others):
      if isinstance(leaf, str):
        _refuse(path, leaf)
      arrays[name.removeprefix(prefix)] = leaf
  unwrapped = {WRAPPERS.sub('', name): array for name, array in arrays.items()}
  if prefix:
    say(f'{path}: the network is read without the prefix {prefix.replace("/", ".")} of its names')
  return unwrapped if len(unwrapped) == len(arrays) else arrays


def _find_prefixes(names: Iterable[str]) -> dict[str, str]:
  """Returns what stands before the names of each network, by the key that a user names it by."""
  prefixes: dict[str, str] = {}
  for name in names:
    if match := FIRST_BLOCKS.search(name):
      prefix = name[: match.start()]
      key = WRAPPERS.sub('', prefix)
      key = prefix if prefixes.get(_key(key), prefix) != prefix else key  # two that differ in wrappers alone
      prefixes[_key(key)] = prefix
  return prefixes


def _choose_prefix(
  path: str | os.PathLike, leaves: Mapping[str, Any], keys: Mapping[str, str], state: str | None
) -> str:
  """Returns what stands before the names of the network that is taken. Raises UserError."""
  if not keys:  # no network that is known
    return ''
  listed = ', '.join(key or 'no key' for key in keys)
  if state is None:
    chosen = min(keys, key=lambda key: bool(COMPANIONS.search(key)))  # the first of those that are equal
    if len(keys) > 1:
      other = next(key for key in keys if key != chosen)
      warn(
        f'{path}: holds {len(keys)} networks, under {listed}: taken is that under {chosen or "no key"}: expected '
        f'--state={other} for another'
      )
    _check_rest(path, leaves, keys, chosen)
    return keys[chosen]
  found = [key for key in keys if key == state] or [key for key in keys if f'.{state}.' in f'.{key}.']
  if len(found) != 1:
    raise UserError(f'--state={state}: {path} holds networks under {listed}: expected one of these')
  return keys[found[0]]


def _check_rest(path: str | os.PathLike, leaves: Mapping[str, Any], keys: Mapping[str, str], chosen: str) -> None:
  """Raises UserError where the state dict of the network holds more than networks."""
  container = ''.join(keys[chosen].rpartition('/')[:2])
  rest = [
    name.removeprefix(container)
    for name in leaves
    if ''.join(name.rpartition('/')[:2]) == container and not name.startswith(tuple(keys.values()))
  ]
  if rest:
    raise UserError(
      f'{path}: {rest[0]} stands beside the network under {chosen}: expected the network alone: --state={chosen} '
      'leaves out the rest'
    )


def _key(prefix: str) -> str:
  """Returns a prefix as a user writes it: its parts joined by '.'."""
  return prefix.replace('/', '.').removesuffix('.')


def _read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads a file of safetensors. Raises UserError."""
  try:
    values = {name: np.asarray(value, np.float32) for name, value in safetensors.numpy.load_file(path).items()}
  except Exception as error:  # SafetensorError, and KeyError for a dtype that NumPy lacks
    raise UserError(
      f'{path}: not a safetensors file that can be read ({shown(error)}): expected float32 arrays'
    ) from error
  if not values:
    _refuse(path, 'nothing is in it')
  return values


def _read_torch(path: str | os.PathLike) -> dict[str, np.ndarray | str]:
  """Reads all tensors of a file of `torch.save`, by their keys joined by '/'; what is wrong with one is a string."""
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
  if not isinstance(values, Mapping):
    _refuse(path, f'it holds a {type(values).__name__}')
  leaves: dict[str, np.ndarray | str] = {}
  for name, value in _tensors(values, torch.Tensor):
    is_dense = value.layout == torch.strided and not value.is_quantized
    leaves[name] = value.detach().float().numpy() if is_dense else f'{shown(name)} is no dense tensor'
  if not leaves:
    _refuse(path, f'it holds {shown(dict(values))}, and no tensor')
  return leaves


def _tensors(values: Mapping[Any, Any], tensor: type, prefix: str = '') -> Iterator[tuple[str, Any]]:
  """Yields the tensors of nested mappings, with their keys joined by '/'."""
  for key, value in values.items():
    if isinstance(value, tensor):
      yield f'{prefix}{key}', value
    elif isinstance(value, Mapping):
      yield from _tensors(value, tensor, f'{prefix}{key}/')


def _refuse(path: str | os.PathLike, reason: str, error: Exception | None = None) -> NoReturn:
  """Raises UserError for a file that holds no state dict."""
  raise UserError(f'{path}: {reason}: {HOW_TO_SAVE}') from error
