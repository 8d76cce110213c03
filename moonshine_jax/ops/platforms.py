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


def by_platform(*arrays: Any, default: Callable[..., Any], **platforms: Callable[..., Any]) -> Any:
  """Computes as `lax.platform_dependent`, with one function for each platform; under `lax_only` with the default."""
  return default(*arrays) if is_lax_only() else lax.platform_dependent(*arrays, default=default, **platforms)


def apart(x: Any, platform: str) -> Any:
  """Returns x, a tree of arrays; on one platform, XLA does not join its computation with what is computed from it."""
  return by_platform(x, default=lambda x: x, **{platform: lax.optimization_barrier})
