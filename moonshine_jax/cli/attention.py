"""`moonshine attention`: a picture of the attention maps of a teacher and its students."""

import importlib.util
from pathlib import Path

import numpy as np
from absl.flags import FlagValues

from moonshine_jax.errors import UserError
from moonshine_jax.report import attention_maps


def main(values: FlagValues) -> None:
  """Draws the attention maps of the networks of workdirs on test images."""
  if Path(values.out).suffix not in attention_maps.FORMATS:
    raise UserError(f'--out={values.out}: expected a file that ends in one of {", ".join(attention_maps.FORMATS)}')
  if importlib.util.find_spec('matplotlib') is None:
    raise UserError("Matplotlib is not installed: pip install 'moonshine-jax[report]'")
  split, networks = attention_maps.read(values.workdirs)
  indices = attention_maps.parse_images(values.images, len(split))
  images, labels = split.take(np.array(indices))
  looks = [attention_maps.look(*network, images) for network in networks]
  attention_maps.draw(values.out, indices, images, labels, looks)
