"""Operations that are computed in one way on one platform and in another on another."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

from jax import lax

_lax_only = contextvars.ContextVar('lax_only', default=False)


@contextlib.contextmanager
def lax_only() -> Iterator[None]:
  """Leaves what is traced in its context to plain lax: for code that reads a trace and computes nothing."""
  token = _lax_only.set(True)
  try:
    yield
  finally:
    _lax_only.reset(token)


def is_lax_only() -> bool:
  """Returns whether `lax_only` holds."""
  return _lax_only.get()


def by_platform(*arrays: Any, cuda: Callable[..., Any], default: Callable[..., Any]) -> Any:
  """Computes with one function on NVIDIA GPUs and with another elsewhere, as `lax.platform_dependent` does."""
  return default(*arrays) if is_lax_only() else lax.platform_dependent(*arrays, cuda=cuda, default=default)
