"""Runs a module that this project did not write, inside a wrapper that leaves its source and its paths alone.

A wrapper is a linen module that holds another as `Unbound`, binds it to its own scope, so that every variable stays at
the path that it has without the wrapper, and changes what the module does while it runs, by `nn.intercept_methods`.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax
import flax.linen as nn
from flax.core.scope import union_filters

from moonshine_jax.errors import UserError
from moonshine_jax.ops import grouped_conv
from moonshine_jax.ops.derivatives import is_forward_mode

CAPTURED = 'moonshine_jax'  # the collection in which captured outputs leave `nn.remat` and `nn.jit`

_captured_layers: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar('captured_layers', default=())


@dataclasses.dataclass(frozen=True)
class Unbound:
  """A module where Flax does not look for submodules: a module that it adopted would have another path."""

  module: nn.Module

  def __post_init__(self) -> None:
    """Raises UserError for what is no module of linen, as one of `flax.nnx`."""
    if not isinstance(self.module, nn.Module):
      raise UserError(f'{type(self.module).__name__}: expected a module of flax.linen')

  def bind(self, wrapper: nn.Module, mark: str, captures: bool = False) -> nn.Module:
    """Returns the module in the scope of a bound wrapper.

    Args:
      wrapper: the bound wrapper.
      mark: what the wrapper changes, in any words. It becomes a flag of the scope, which `nn.jit` compares before it
        takes what it has compiled: else a student would run what was compiled for its teacher, and never be
        intercepted.
      captures: whether outputs can be taken out, by `capturing`.
    """
    assert wrapper.scope is not None  # it is bound
    scope = wrapper.scope.rewound()
    mark = f'{mark} {"in forward mode" if is_forward_mode() else ""}'
    scope.flags = scope.flags.copy({f'moonshine_jax: {mark}': True})
    if captures:
      scope.mutable = union_filters(scope.mutable, CAPTURED)
    return self.module.copy(parent=scope)


@contextlib.contextmanager
def capturing(module: nn.Module, layers: Sequence[str], captured: dict[str, Any]) -> Iterator[None]:
  """Puts outputs of layers into `captured` by path when its context ends: for each layer that of the last call.

  Args:
    module: a module that `Unbound.bind` has bound with `captures`.
    layers: paths of its modules.
    captured: where the outputs go.
  """
  scope = module.scope
  assert scope is not None  # `Unbound.bind` has bound it

  def intercept(
    call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: nn.module.InterceptorContext
  ) -> Any:
    outputs = call(*args, **kwargs)
    if context.method_name == '__call__':
      capture(context.module, outputs)
    return outputs

  token = _captured_layers.set(tuple(layers))
  try:
    with nn.intercept_methods(intercept):
      yield
  finally:
    _captured_layers.reset(token)
  tree = scope._variables.pop(CAPTURED, {})  # which else `init` would return
  captured.update({'/'.join(path[:-1]): value for path, value in flax.traverse_util.flatten_dict(tree).items()})


def capture(module: nn.Module, outputs: Any) -> None:
  """Keeps what a bound module returns, where `capturing` wants it.

  For an interceptor that returns something in place of what the module would: interceptors inside of it see nothing.
  """
  if '/'.join(module.path) in _captured_layers.get():
    module.sow(CAPTURED, CAPTURED, outputs, reduce_fn=lambda _, new: new, init_fn=lambda: None)


@contextlib.contextmanager
def with_attributes(module: nn.Module, **attributes: Any) -> Iterator[None]:
  """Gives a bound module other attributes in its context; unlike a clone, interceptors see one call of one module."""
  before = {name: getattr(module, name) for name in attributes}
  try:
    for name, value in attributes.items():
      object.__setattr__(module, name, value)  # modules are frozen
    yield
  finally:
    for name, value in before.items():
      object.__setattr__(module, name, value)


def adapt(axis_name: str | None) -> Callable[..., Any]:
  """Returns an interceptor that makes a module fit for the train step on several devices.

  The module's convolutions run through `ops.grouped_conv`, whose gradients are fast in a scanned loop too, unless the
  user gave them another `conv_general_dilated`. Its BN takes the statistics of a batch over the pmapped axis
  `axis_name`, unless the user gave it an axis. BN is `nn.BatchNorm`, and any module that is called BatchNorm and has an
  `axis_name`, as copies of `nn.BatchNorm` do.
  """

  def intercept(
    call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], context: nn.module.InterceptorContext
  ) -> Any:
    module = context.module
    changes: dict[str, Any] = {}
    if context.method_name == '__call__':
      if isinstance(module, nn.Conv) and module.conv_general_dilated is module.conv_general_dilated_cls is None:
        changes = {'conv_general_dilated': grouped_conv.conv_general_dilated}
      elif (isinstance(module, nn.BatchNorm) or 'BatchNorm' in type(module).__name__) and getattr(
        module, 'axis_name', ''
      ) is None:
        changes = {'axis_name': None if module.is_initializing() else axis_name}
    with with_attributes(module, **changes):
      return call(*args, **kwargs)

  return intercept
