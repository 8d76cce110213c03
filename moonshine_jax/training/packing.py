"""Parameters and running statistics as vectors in place of hundreds of small arrays.

An optimiser does the same few operations to every array, and BN to all of its running statistics. A GPU is given each
as a kernel of its own, which takes longer to start than to run: a quarter of the kernels of a train step were these.
Packed parameters have all kernels in one array and all else in another; whatever works on the leaves of a tree, as the
transformations of Optax do, works on them as it is, and gives each parameter the same result.
"""

import math
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp

# XLA fuses at most 96 operands with what a kernel computes.
MAX_JOINED = 48


class Packed(flax.struct.PyTreeNode):
  """A tree of arrays of one dtype as two.

  Attributes:
    kernels: of two axes and more, (1, elements): of two axes, for what is decided by their number, as weight decay is.
    vectors: all others, (elements,).
    structure: of the tree.
    shapes: of its leaves.
  """

  kernels: jax.Array
  vectors: jax.Array
  structure: Any = flax.struct.field(pytree_node=False)
  shapes: tuple[tuple[int, ...], ...] = flax.struct.field(pytree_node=False)


def pack_trees(tree: Any, like: Any) -> Any:
  """Packs the trees of one structure in a tree.

  Args:
    tree: parameters, or what has trees of their structure in it, such as the state of an optimiser.
    like: the parameters.

  Returns:
    The tree with Packed in their place; the tree as it is where the parameters are none or differ in dtype.
  """
  structure: Any = jax.tree.structure(like)
  if len({leaf.dtype for leaf in jax.tree.leaves(like)}) != 1:
    return tree

  def is_alike(subtree: Any) -> bool:
    return bool(jax.tree.structure(subtree) == structure)

  return jax.tree.map(lambda subtree: _join(subtree) if is_alike(subtree) else subtree, tree, is_leaf=is_alike)


def pack_as(tree: Any, like: Any) -> Any:
  """Returns a tree packed if `like` is."""
  return _join(tree) if isinstance(like, Packed) else tree


def unpack_trees(tree: Any) -> Any:
  """Returns a tree with trees in place of Packed ones."""
  return jax.tree.map(
    lambda leaf: _split(leaf) if isinstance(leaf, Packed) else leaf, tree, is_leaf=lambda x: isinstance(x, Packed)
  )


def grad(loss_fn: Callable, params: Any) -> tuple[Any, Any]:
  """Differentiates a loss by parameters, packed or not: what `jax.grad` returns with `has_aux`.

  Args:
    loss_fn: a function of the tree of parameters to the loss and to anything else.
    params: the parameters.

  Returns:
    The gradients, packed as the parameters are, and what else the function returned.
  """
  grads, aux = jax.grad(loss_fn, has_aux=True)(unpack_trees(params))
  with jax.named_scope('optimizer'):
    return pack_as(grads, params), aux


def _join(tree: Any) -> Packed:
  leaves, structure = jax.tree.flatten(tree)
  kernels = _concatenate([_output_first(leaf) for leaf in leaves if leaf.ndim > 1])
  vectors = _concatenate([leaf for leaf in leaves if leaf.ndim <= 1])
  return Packed(kernels[None], vectors, structure, tuple(leaf.shape for leaf in leaves))


def _split(packed: Packed) -> Any:
  kernels, vectors = packed.kernels[0], packed.vectors
  starts = {True: 0, False: 0}
  leaves = []
  for shape in packed.shapes:
    is_kernel = len(shape) > 1
    start, size = starts[is_kernel], math.prod(shape)
    starts[is_kernel] += size
    part = jax.lax.slice((kernels if is_kernel else vectors), (start,), (start + size,))
    if is_kernel:
      leaves.append(jnp.moveaxis(part.reshape(shape[-1:] + shape[:-1]), 0, -1))
    else:
      leaves.append(part.reshape(shape))
  return jax.tree.unflatten(packed.structure, leaves)


def _output_first(kernel: jax.Array) -> jax.Array:
  """Moves the output channels of a kernel first, as cuDNN has them: what it computed is joined where it lies."""
  return jnp.moveaxis(kernel, -1, 0)


def _concatenate(arrays: list[jax.Array]) -> jax.Array:
  arrays = [array.ravel() for array in arrays]
  while len(arrays) > 1:
    arrays = [jnp.concatenate(arrays[i : i + MAX_JOINED]) for i in range(0, len(arrays), MAX_JOINED)]
    if len(arrays) > 1:
      arrays = list(jax.lax.optimization_barrier(arrays))
  return arrays[0] if arrays else jnp.zeros(0)
