"""The losses that a user's functions compute, checked before anything is compiled for the devices."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from moonshine_jax.errors import UserError, warn
from moonshine_jax.runtime import user_functions

BATCH = 4  # examples with which a function is tried
EXPECTED = {
  'kd_form': "logits (batch, classes), the teacher's, labels (batch,)",
  'at_form': "tuple of activations (batch, height, width, channels), the teacher's, labels (batch,)",
}


def check_user_losses(
  distill: ml_collections.ConfigDict,
  regime: str,
  num_classes: int,
  student: Sequence[jax.ShapeDtypeStruct],
  teacher: Sequence[jax.ShapeDtypeStruct],
) -> None:
  """Tries the functions of a student's loss, once each, on random numbers of the right shapes.

  Args:
    distill: `config.distill` of the student.
    regime: of the student, which says what it uses.
    num_classes: of the data.
    student: shapes of the student's activations; may be empty where no function takes them.
    teacher: shapes of the teacher's.

  Raises:
    UserError: for a function that cannot be loaded or traced, whose value is no number for each example, or whose value
      or gradient is not finite.
  """
  logits = jax.ShapeDtypeStruct((BATCH, num_classes), jnp.float32)
  arguments: dict[str, tuple[Any, Any]] = {'kd_form': (logits, logits), 'at_form': (tuple(student), tuple(teacher))}
  for field, loss in (('kd_form', 'KD'), ('at_form', 'AT')):
    if loss in regime and user_functions.is_name(distill[field]):
      _check_loss(field, distill[field], num_classes, *arguments[field])


def _check_loss(field: str, name: str, num_classes: int, student: Any, teacher: Any) -> None:
  where = f'config.distill.{field}={name!r}'
  expected = f"expected a function of (the student's {EXPECTED[field]})"
  try:
    function = user_functions.load(name)
  except UserError as error:
    raise UserError(f'config.distill.{field}={error}') from error
  rng = np.random.default_rng(0)

  def draw(shape: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.asarray(rng.normal(size=(BATCH, *shape.shape[1:])), shape.dtype)

  student, teacher = jax.tree.map(draw, (student, teacher))
  labels = jnp.asarray(rng.integers(0, num_classes, BATCH), jnp.int32)

  def summed(student: Any) -> tuple[jax.Array, Any]:
    value = function(student, teacher, labels)
    return jnp.sum(value), value

  try:
    value = jax.eval_shape(function, student, teacher, labels)
    if not isinstance(value, jax.ShapeDtypeStruct) or value.shape != (BATCH,) or value.dtype.kind not in 'fV':
      raise UserError(
        f'{where}: gives {_described(value)} for {BATCH} examples: {expected} to a float for each example'
      )
    gradient, value = jax.jit(jax.grad(summed, has_aux=True))(student)
  except UserError:
    raise
  except Exception as error:  # whatever the user's code raises
    raise UserError(
      f'{where}: {type(error).__name__}: {str(error)[:500]}: {expected} that JAX can differentiate'
    ) from error
  for what, numbers in (('value', value), ('gradient', gradient)):
    if not all(np.isfinite(np.float32(leaf)).all() for leaf in jax.tree.leaves(numbers)):
      raise UserError(f'{where}: its {what} is not finite for random numbers of deviation 1: expected finite numbers')
  if not any(np.any(leaf) for leaf in jax.tree.leaves(gradient)):
    warn(f'{where}: its gradient by what the student gives is 0: the student learns nothing from it')


def _described(value: Any) -> str:
  if isinstance(value, jax.ShapeDtypeStruct):
    return f'{value.dtype} of the shape {value.shape}'
  return f'a {type(value).__name__}'
