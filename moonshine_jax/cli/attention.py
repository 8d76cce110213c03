"""`moonshine attention`: a picture of the attention maps of a teacher and its students."""

import importlib.util
from pathlib import Path

import numpy as np
from absl.flags import FlagValues

from moonshine_jax.errors import UserError
from moonshine_jax.report import attention_maps


def main(values: FlagValues) -> None:
  """Draws the attention maps of the networks of workdirs on test images."""
  if Path(values.out).suffix not in attention_maps.PICTURE_SUFFIXES:
    endings = ', '.join(attention_maps.PICTURE_SUFFIXES)
    raise UserError(f'--out={values.out}: expected a file that ends in one of {endings}')
  if importlib.util.find_spec('matplotlib') is None:
    raise UserError("Matplotlib is not installed: pip install 'moonshine-jax[report]'")
  split, networks, classes = attention_maps.open_workdirs(
    values.workdirs, values.trust_code, values.data, values.data_dir
  )
  indices = attention_maps.parse_image_indices(values.images, len(split))
  images, labels = split.take(np.array(indices))
  maps = [attention_maps.compute_maps(*network, images) for network in networks]
  attention_maps.draw_attention_maps(values.out, indices, images, labels, maps, classes)
