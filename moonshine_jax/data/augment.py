"""Augmentation of training images: the paper's (section 4.1: pad with black, crop at random, flip), Cutout, mixtures.

Pure functions, on the device. The images are normalised afterwards, by `models.network.Network`.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from moonshine_jax.runtime import devices

# Folded into the key of a step, from which `draw_choices` splits: what a config leaves out changes no other choice.
CUTOUT, MIXTURE = 2**31 + 1, 2**31 + 2


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


def draw_cutout(key: jax.Array, batch_size: int, size: Sequence[int]) -> jax.Array:
  """Draws the centres of Cutout's squares, int32 (batch_size, 2), anywhere in images of a height and a width."""
  return jax.random.randint(jax.random.fold_in(key, CUTOUT), (batch_size, 2), 0, jnp.asarray(size))


def cut_out(images: jax.Array, centres: jax.Array, side: int, fill: Sequence[float]) -> jax.Array:
  """Fills a square of each image, or what of it lies in the image (Cutout: DeVries and Taylor, 2017).

  Args:
    images: (batch, height, width, channels), not normalised.
    centres: from `draw_cutout`, for as many images.
    side: of the square, in pixels.
    fill: for each channel, or all of them: the mean of the pixels, which the normalisation makes 0.

  Returns:
    float32 images of the same shape.
  """
  rows, columns = (_inside(centres[:, i, None] - side // 2, side, images.shape[i + 1]) for i in range(2))
  hole = (rows[:, :, None] & columns[:, None, :])[..., None]
  return jnp.where(hole, jnp.asarray(fill, jnp.float32), images.astype(jnp.float32))


def _inside(start: jax.Array, length: jax.typing.ArrayLike, size: int) -> jax.Array:
  """Returns which of the pixels (..., size) along an axis lie in an interval from start (..., 1)."""
  pixels = jnp.arange(size)
  return (start <= pixels) & (pixels < start + length)


class Mixture(NamedTuple):
  """How a batch mixes its images.

  Attributes:
    partner: int32 (batch,), the image that each is mixed with.
    weight: float32 (height, width), the share of the image itself in each pixel; the rest is its partner's.
  """

  partner: jax.Array
  weight: jax.Array

  @property
  def share(self) -> jax.Array:
    """The share of the image's own label."""
    return self.weight.mean()


class MixedLabels(NamedTuple):
  """The labels of mixed images.

  Attributes:
    own: integers (batch,).
    partner: integers (batch,).
    share: float32 (), the share of the own ones.
  """

  own: jax.Array
  partner: jax.Array
  share: jax.Array


def draw_mixture(key: jax.Array, batch_size: int, size: Sequence[int], mixup: float, cutmix: float) -> Mixture:
  """Draws how a batch mixes its images: one share for all of them, as in the released code of both methods.

  Args:
    key: the mixture follows from it.
    batch_size: number of images.
    size: height and width of the images.
    mixup: a of mixup's Beta(a, a) (Zhang et al., ICLR 2018); 0 for none.
    cutmix: a of CutMix's (Yun et al., ICCV 2019); 0 for none. With both, each has half of the steps.
  """
  partner_key, mixup_key, cutmix_key, centre_key, which_key = jax.random.split(jax.random.fold_in(key, MIXTURE), 5)
  weights = []
  if mixup:
    weights.append(jnp.broadcast_to(jax.random.beta(mixup_key, mixup, mixup), size))
  if cutmix:
    # A rectangle of the image's proportions, of which the part that lies in the image is the partner's.
    side = jnp.sqrt(1 - jax.random.beta(cutmix_key, cutmix, cutmix))
    centre = jax.random.uniform(centre_key, (2,))
    rows, columns = (
      _inside(jnp.round(size[i] * (centre[i] - side / 2)), jnp.round(size[i] * side), size[i]) for i in range(2)
    )
    weights.append(1 - (rows[:, None] & columns).astype(jnp.float32))
  weight = jnp.where(jax.random.bernoulli(which_key), weights[0], weights[-1])
  return Mixture(jax.random.permutation(partner_key, batch_size), weight)


def mix(images: jax.Array, partners: jax.Array, mixture: Mixture) -> jax.Array:
  """Mixes images with their partners, both (batch, height, width, channels). Returns float32 images."""
  weight = mixture.weight[:, :, None]
  return weight * images.astype(jnp.float32) + (1 - weight) * partners.astype(jnp.float32)


def augment_batch(
  data: ml_collections.ConfigDict,
  batch_size: int,
  key: jax.Array,
  images: jax.Array,
  labels: jax.Array,
  fill: Sequence[float],
  axis_name: str | None,
) -> tuple[jax.Array, jax.Array | MixedLabels]:
  """Augments a replica's share of a batch by the choices of a key.

  They are drawn for the whole batch, so that an example's choices do not depend on the number of devices.

  Args:
    data: `config.data`.
    batch_size: images in the batch, over all replicas.
    key: of the step.
    images: uint8 (share, height, width, channels).
    labels: integers (share,).
    fill: the mean of each channel's pixels, with which Cutout fills.
    axis_name: of the replicas.

  Returns:
    The images, float32 where they are cut out or mixed, and their labels, both where they are mixed.
  """
  size = images.shape[1:3]
  share = functools.partial(devices.replica_share, size=len(labels), axis_name=axis_name)
  choices = share(draw_choices(key, batch_size, data.pad, data.flip))
  images = crop_and_flip(images, choices, data.pad)
  if data.cutout:
    images = cut_out(images, share(draw_cutout(key, batch_size, size)), data.cutout, fill)
  if not data.mixup and not data.cutmix:
    return images, labels
  mixture = draw_mixture(key, batch_size, size, data.mixup, data.cutmix)
  everyone = devices.join_shares((images, labels), axis_name)  # a partner may be on any device
  partners, partner_labels = jax.tree.map(lambda x: x[share(mixture.partner)], everyone)
  return mix(images, partners, mixture), MixedLabels(labels, partner_labels, mixture.share)
