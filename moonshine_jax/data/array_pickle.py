"""Pickles of arrays, read as data: nothing that such a file names is imported or called.

The pickle machine calls what a file names. Here it finds stand-ins for the few names that pickles of NumPy's arrays
have, and nothing else; not even NumPy's own functions are called, whose checks of their arguments are few.
"""

import io
import math
import pickle
from typing import Any

import numpy as np

from moonshine_jax.errors import UserError, shown


def read_pickle(name: str, content: bytes) -> dict[str, Any]:
  """Reads a pickle of a dict whose values are lists, numbers, texts and arrays of uint8.

  Args:
    name: of the file, for an error.
    content: of the file.

  Returns:
    The dict; texts of Python 2 are decoded as Latin-1.

  Raises:
    UserError: for a pickle that names anything but NumPy's arrays, and for what is no such pickle.
  """
  try:
    values = _Unpickler(io.BytesIO(content), encoding='latin1').load()
    if not isinstance(values, dict):
      raise ValueError(f'a {type(values).__name__}')
    return {str(key): value.to_array() if isinstance(value, _Array) else value for key, value in values.items()}
  except UserError as error:
    raise UserError(f'{name}: {error}') from error
  except Exception as error:  # whatever the pickle machine makes of other files
    reason = ' '.join(f'{type(error).__name__}: {error}'.split())[:200]
    raise UserError(f'{name}: cannot be read ({reason}): expected a pickle of a dict of arrays') from error


class _Array:
  """Stands for an array: what the pickle says of it, from which `to_array` makes one."""

  def __setstate__(self, state: Any) -> None:
    _, self._shape, self._dtype, self._fortran, self._data = state

  def to_array(self) -> np.ndarray:
    """Returns the array. Raises ValueError for one that is not of uint8."""
    data = self._data.encode('latin1') if isinstance(self._data, str) else self._data
    if not isinstance(self._dtype, _Dtype) or not isinstance(data, bytes) or math.prod(self._shape) != len(data):
      raise ValueError(f'an array of {self._shape} and {type(data).__name__}: expected one of uint8')
    return np.frombuffer(data, np.uint8).reshape(self._shape, order='F' if self._fortran else 'C')


class _Dtype:
  """Stands for the dtype uint8."""

  def __setstate__(self, state: Any) -> None:
    """Ignores the order of bytes and the like, which one byte has not."""


def _make_array(*_: Any) -> _Array:
  return _Array()


def _make_dtype(name: str, *_: Any) -> _Dtype:
  if name != 'u1':
    raise ValueError(f'the dtype {shown(name)}: expected uint8')
  return _Dtype()


def _encode(text: str, encoding: str) -> bytes:
  """Bytes as Python 3 writes them in a pickle that Python 2 can read."""
  if encoding != 'latin1':
    raise ValueError(f'the encoding {shown(encoding)}: expected latin1')
  return text.encode('latin1')


_STAND_INS = {
  ('numpy', 'dtype'): _make_dtype,
  ('numpy', 'ndarray'): 'numpy.ndarray',  # an argument of _reconstruct alone
  ('numpy.core.multiarray', '_reconstruct'): _make_array,
  ('numpy._core.multiarray', '_reconstruct'): _make_array,
  ('_codecs', 'encode'): _encode,
}


class _Unpickler(pickle.Unpickler):
  """The pickle machine, which finds nothing but the stand-ins."""

  def find_class(self, module: str, name: str) -> Any:
    """Returns the stand-in for a name. Raises UserError where there is none."""
    if (module, name) not in _STAND_INS:
      raise UserError(
        f'its pickle names {shown(f"{module}.{name}")}, which is not run: expected arrays of NumPy alone, as were '
        'published'
      )
    return _STAND_INS[module, name]
