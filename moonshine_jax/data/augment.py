"""The paper's augmentation of training images (section 4.1): pad with black, crop at random, flip.

Pure functions, on the device. The images are normalised afterwards, by `models.network.Network`.
"""

import jax
import jax.numpy as jnp


def draw_choices(key: jax.Array, batch_size: int, pad: int, flip: bool) -> dict[str, jax.Array]:
  """Draws the random choices for a batch.

  Args:
    key: the choices follow from it.
    batch_size: number of images.
    pad: pixels on each side.
    flip: whether images are mirrored at all, each with a probability of one half.

  Returns:
    {'offset': int32 (batch_size, 2) in [0, 2 pad], 'flip': bool (batch_size,)}.
  """
  offset_key, flip_key = jax.random.split(key)
  return {
    'offset': jax.random.randint(offset_key, (batch_size, 2), 0, 2 * pad + 1),
    'flip': jax.random.bernoulli(flip_key, 0.5 if flip else 0.0, (batch_size,)),
  }


def crop_and_flip(images: jax.Array, choices: dict[str, jax.Array], pad: int) -> jax.Array:
  """Pads images (batch, height, width, channels) with zeros, crops them to their size and mirrors some.

  Args:
    images: of any dtype, not normalised, so that the padding is black.
    choices: from `draw_choices`, for as many images.
    pad: pixels on each side; with 0 nothing is cropped.

  Returns:
    Images of the same shape and dtype.
  """
  height, width, channels = images.shape[1:]

  def crop(image: jax.Array, offset: jax.Array) -> jax.Array:
    return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), (height, width, channels))

  if pad:
    images = jax.vmap(crop)(jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0))), choices['offset'])
  return jnp.where(choices['flip'][:, None, None, None], images[:, :, ::-1], images)
