"""Traces of a linen module under an interceptor: as it is initialised, and as it is applied; nothing is computed."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.extend.core import Jaxpr, Literal

from moonshine_jax.errors import UserError
from moonshine_jax.models.surgery.intercept import Unbound

Interceptor = Callable[..., Any]  # for `nn.intercept_methods`

_marks = itertools.count()


class Traceable:
  """A module and the arguments of its call, which may be `jax.ShapeDtypeStruct` in place of arrays.

  Attributes:
    batch_size: the number of examples, of the first array among the arguments.
  """

  def __init__(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]):
    """Raises UserError where no argument is an array."""
    self._module = module
    self._leaves, self._treedef = jax.tree.flatten((args, dict(kwargs)))
    self._arrays = {i: leaf for i, leaf in enumerate(self._leaves) if hasattr(leaf, 'shape') and hasattr(leaf, 'dtype')}
    if not self._arrays:
      raise UserError(
        f'{type(module).__name__}: no example to call it with: expected an array or a jax.ShapeDtypeStruct'
      )
    self.batch_size = next(iter(self._arrays.values())).shape[0]

  def init(self, interceptor: Interceptor, mark: str | None = None) -> tuple[Jaxpr, dict[str, Any]]:
    """Returns the trace of the initialisation, and the shapes of the variables; `mark` is as in `Unbound.bind`."""
    module = self._marked(mark)

    def init(key: jax.Array, arrays: dict[int, Any]) -> Any:
      args, kwargs = self._arguments(arrays)
      with nn.intercept_methods(interceptor):
        return module.init(key, *args, **kwargs)

    jaxpr, variables = jax.make_jaxpr(init, return_shape=True)(jax.random.key(0), self._arrays)
    return jaxpr.jaxpr, variables

  def apply(
    self, interceptor: Interceptor, variables: dict[str, Any], mutable: Sequence[str] = (), has_rngs: bool = True
  ) -> tuple[Any, dict[str, Any]]:
    """Returns the shapes of what an application returns, and of the mutable collections after it.

    Args:
      interceptor: for `nn.intercept_methods`.
      variables: the shapes of the variables.
      mutable: the collections that are mutable.
      has_rngs: whether there is a key for random choices.
    """
    return jax.eval_shape(self._application(interceptor, mutable, has_rngs), variables, jax.random.key(0), self._arrays)

  def reads(self, variables: dict[str, Any], collection: str) -> bool:
    """Returns whether an application in which nothing is mutable computes with any array of a collection."""
    apply = self._application(lambda call, args, kwargs, context: call(*args, **kwargs), (), has_rngs=False)
    jaxpr = jax.make_jaxpr(apply)(variables, jax.random.key(0), self._arrays).jaxpr
    read = {var for eqn in jaxpr.eqns for var in eqn.invars if not isinstance(var, Literal)}
    of_variables = zip(jax.tree.leaves_with_path(variables), jaxpr.invars, strict=False)
    return any(var in read for (path, _), var in of_variables if path[0] == jax.tree_util.DictKey(collection))

  def _application(self, interceptor: Interceptor, mutable: Sequence[str], has_rngs: bool) -> Callable[..., Any]:
    module = self._marked(None)

    def apply(variables: dict[str, Any], key: jax.Array, arrays: dict[int, Any]) -> Any:
      args, kwargs = self._arguments(arrays)
      with nn.intercept_methods(interceptor):
        return module.apply(variables, *args, **kwargs, mutable=list(mutable), rngs=key if has_rngs else None)

    return apply

  def _marked(self, mark: str | None) -> nn.Module:
    return _Marked(Unbound(self._module), mark or new_mark())

  def _arguments(self, arrays: dict[int, Any]) -> Any:
    return jax.tree.unflatten(self._treedef, [arrays.get(i, leaf) for i, leaf in enumerate(self._leaves)])


class _Marked(nn.Module):
  original: Unbound
  mark: str

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    return self.original.bind(self, self.mark)(*args, **kwargs)


def new_mark() -> str:
  """Returns a mark of one trace alone: JAX and `nn.jit` keep traces for later calls, which no interceptor would see."""
  return f'trace-{next(_marks)}-'
