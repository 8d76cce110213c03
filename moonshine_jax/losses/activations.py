"""Losses of activations: attention transfer, the normalised squared error, similarity preservation."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from moonshine_jax.losses.replicas import all_of_replicas, largest_over_replicas, mean_over_replicas

MAP_FORMS = ('released', 'equation')
LEAST_SQUARE = 1e-24  # of a norm that divides: below it the quotient, and its gradient, go to zero


def attention_map(activation: jax.Array, size: Sequence[int] | None = None) -> jax.Array:
  """Computes the attention map of an activation: its squares, averaged over channels, flattened and L2-normalised.

  As in Zagoruyko and Komodakis (2017).

  Args:
    activation: (batch, height, width, channels).
    size: a height and a width, no larger than the activation's, to which the map is averaged before it is normalised:
      each new pixel is the mean over its share of the old pixels. None leaves the size as it is.

  Returns:
    float32 (batch, height * width) of norm 1, or 0 where the activation is 0.
  """
  squares = jnp.mean(jnp.square(activation.astype(jnp.float32)), axis=-1)
  if size is not None and tuple(size) != squares.shape[1:]:
    rows, columns = map(_shares, squares.shape[1:], size)
    squares = jnp.einsum('ij,bjk,lk->bil', rows, squares, columns, precision=jax.lax.Precision.HIGHEST)
  squares = squares.reshape(activation.shape[0], -1)
  # The norm does not depend on the scale, but would overflow. Where nothing is above 1, nothing changes.
  squares /= jax.lax.stop_gradient(jnp.maximum(squares.max(axis=-1, keepdims=True), 1))
  return _unit_rows(squares)


def _unit_rows(rows: jax.Array) -> jax.Array:
  """Divides each row by its norm."""
  return rows * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(rows), axis=-1, keepdims=True), LEAST_SQUARE))


def _shares(size: int, fewer: int) -> np.ndarray:
  """Returns (fewer, size): the share of every old pixel in the mean of every one of the `fewer` new pixels."""
  edges = np.arange(fewer + 1)[:, None] * size / fewer
  pixels = np.arange(size)
  overlaps = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
  return np.maximum(overlaps, 0).astype(np.float32) * fewer / size


def attention_transfer(
  student_activations: Sequence[jax.Array], teacher_activations: Sequence[jax.Array], form: str = 'released'
) -> jax.Array:
  """Computes the part of equation 2 that beta multiplies: the distance of attention maps, summed over the layers.

  Args:
    student_activations: an activation (batch, height, width, channels) of each layer.
    teacher_activations: as many activations of the same batch; where heights or widths differ, the larger map is
      averaged to the smaller; the channels may differ.
    form: the distance of two maps: 'released' is their mean squared difference, 'equation' the L2 norm of their
      difference.

  Returns:
    The loss, (batch,).

  Raises:
    ValueError: for another form, or where the numbers of layers differ.
  """
  total = jnp.zeros((), jnp.float32)
  for student, teacher in zip(student_activations, teacher_activations, strict=True):
    size = tuple(map(min, student.shape[1:3], teacher.shape[1:3]))
    squares = jnp.square(attention_map(student, size) - attention_map(teacher, size))
    if form == 'released':
      total += jnp.mean(squares, axis=-1)
    elif form == 'equation':
      distance = jnp.sum(squares, axis=-1)
      # The square root has no gradient at zero, where the maps agree; the inner choice keeps it finite there.
      total += jnp.where(distance > 0, jnp.sqrt(jnp.where(distance > 0, distance, 1.0)), 0.0)
    else:
      raise ValueError(f'{form!r} is not a form of attention transfer: expected one of {", ".join(MAP_FORMS)}')
  return total


def normalised_squared_error(
  student_activations: Sequence[jax.Array], teacher_activations: Sequence[jax.Array], axis_name: str | None = None
) -> jax.Array:
  """Computes the squared error of activations over the mean square of the teacher's, summed over the layers.

  It is FitNets' loss (Romero et al., 2015) without the adapter, which a student of its teacher's shapes does not need,
  and without the scale of the activations: one of zeros has the loss 1, on average over the batch.

  Args:
    student_activations: an activation (batch, height, width, channels) of each layer.
    teacher_activations: as many, of the same shapes.
    axis_name: of the replicas that share the batch; None for one.

  Returns:
    The loss, float32 (batch,).

  Raises:
    ValueError: where the numbers of layers or their shapes differ.
  """
  total = jnp.zeros((), jnp.float32)
  for student, teacher in zip(student_activations, teacher_activations, strict=True):
    if student.shape != teacher.shape:
      raise ValueError(f'activations of {student.shape} and {teacher.shape}: expected equal shapes')
    target = teacher.astype(jnp.float32)
    # The quotient does not depend on the scale, but squares would overflow. Where nothing is above 1, nothing changes.
    scale = jnp.maximum(largest_over_replicas(jnp.abs(target).max(), axis_name), 1)
    square = mean_over_replicas(jnp.mean(jnp.square(target / scale)), axis_name)
    errors = jnp.mean(jnp.square((student - target) / scale).reshape(len(target), -1), axis=-1)
    total += errors / jax.lax.stop_gradient(jnp.maximum(square, LEAST_SQUARE))
  return total


def similarity_preservation(
  student_activations: Sequence[jax.Array], teacher_activations: Sequence[jax.Array], axis_name: str | None = None
) -> jax.Array:
  """Computes the similarity-preserving loss (Tung and Mori, ICCV 2019), summed over the layers.

  With the activations of a layer as rows A (batch, values), G is A A^T with rows of norm 1. The loss of the batch is
  the squared Frobenius norm of the difference of the two G, over batch^2. The batch is that of all replicas.

  Args:
    student_activations: an activation (batch, height, width, channels) of each layer.
    teacher_activations: as many of the same batch, of any shapes.
    axis_name: of the replicas that share the batch; None for one.

  Returns:
    The loss of each example, float32 (batch,), of which the mean is that of the batch.

  Raises:
    ValueError: where the numbers of layers differ.
  """
  total = jnp.zeros((), jnp.float32)
  for student, teacher in zip(student_activations, teacher_activations, strict=True):
    similarities = [_similarities(activation, axis_name) for activation in (student, teacher)]
    total += jnp.mean(jnp.square(similarities[0] - similarities[1]), axis=-1)
  return total


def _similarities(activation: jax.Array, axis_name: str | None) -> jax.Array:
  """Returns how alike each example activates a layer as every one of the whole batch, in rows of norm 1."""
  rows = activation.astype(jnp.float32).reshape(len(activation), -1)
  rows /= jnp.maximum(largest_over_replicas(jnp.abs(rows).max(), axis_name), 1)  # as in `normalised_squared_error`
  everyone = all_of_replicas(rows, axis_name)
  return _unit_rows(jnp.einsum('id,jd->ij', rows, everyone, precision=jax.lax.Precision.HIGHEST))
