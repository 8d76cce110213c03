"""Derivatives in forward mode, which the gradients that are written out for speed do not have."""

import contextlib
import contextvars
from collections.abc import Iterator

from moonshine_jax.errors import UserError

_forward_mode = contextvars.ContextVar('forward_mode', default=False)


@contextlib.contextmanager
def forward_mode() -> Iterator[None]:
  """Traces networks in its context in forms that JAX differentiates by itself, in any mode and to any order.

  Grouped convolutions and BN with ReLU have gradients of their own (`jax.custom_vjp`), for which `jax.jvp`,
  `jax.jacfwd`, `jax.linearize` and `jax.hessian` raise. In this context they are XLA's convolutions and plain
  arithmetic: the values are the same to rounding, reverse mode is slower. What `jax.jit` traced outside of it stays as
  it was traced.
  """
  token = _forward_mode.set(True)
  try:
    yield
  finally:
    _forward_mode.reset(token)


def is_forward_mode() -> bool:
  """Returns whether `forward_mode` holds."""
  return _forward_mode.get()


@contextlib.contextmanager
def reverse_mode_alone() -> Iterator[None]:
  """Says what would be right where JAX refuses forward mode in its context. Raises UserError."""
  try:
    yield
  except TypeError as error:
    if 'forward-mode' not in str(error):
      raise
    raise UserError(
      'forward mode (jax.jvp, jax.jacfwd, jax.linearize, jax.hessian) of an operation that has a gradient of its own: '
      'expected reverse mode (jax.grad, jax.vjp), or the call inside `with moonshine_jax.forward_mode():`'
    ) from error
