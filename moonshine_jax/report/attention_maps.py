"""Draws what attention transfer is about: the attention maps of a teacher and its students, side by side.

  python -m moonshine_jax.report attention --workdirs=TEACHER,STUDENT,STUDENT --images=0,1,2 --out=FILE.png

A row for each image of the test split, with its label; for each network the normalised maps of its activations (conv2,
conv3 and conv4 of a Wide ResNet) and the label that it predicts. The maps of one place and one image share their
colours, black for 0. Needs Matplotlib.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from moonshine_jax import config, losses
from moonshine_jax.data import sources, splits
from moonshine_jax.errors import UserError, require_flags
from moonshine_jax.models import factory
from moonshine_jax.models.network import Network
from moonshine_jax.runtime import files
from moonshine_jax.workdir import checkpoint

FORMATS = ('.png', '.svg', '.pdf')


class Look(NamedTuple):
  """What a network makes of images.

  Attributes:
    title: of the network.
    predictions: labels (images,).
    maps: of its activations by their names, float32 (images, height, width), each image's of L2 norm 1.
  """

  title: str
  predictions: np.ndarray
  maps: dict[str, np.ndarray]


def look(title: str, network: Network, variables: Any, images: np.ndarray) -> Look:
  """Applies a network in evaluation mode to uint8 images (images, height, width, channels)."""
  logits, activations = jax.jit(lambda variables, images: network(variables, images, train=False))(variables, images)
  if not activations:
    raise UserError(f'{title}: the network gives no activations: expected some to draw')
  names = factory.activation_names(network.model, len(activations))
  return Look(
    title,
    np.asarray(logits.argmax(-1)),
    {
      name: np.asarray(losses.attention_map(each)).reshape(each.shape[:3])
      for name, each in zip(names, activations, strict=True)
    },
  )


def draw(
  path: str | os.PathLike, indices: Sequence[int], images: np.ndarray, labels: np.ndarray, looks: Sequence[Look]
) -> None:
  """Writes the picture of images (images, height, width, channels) and what each network makes of them."""
  from moonshine_jax.report.figures import SVG, plt

  with plt.rc_context(SVG), files.writing(path):
    columns = 1 + sum(len(each.maps) for each in looks)
    figure, axes = plt.subplots(
      len(images), columns, figsize=(1.1 * columns, 0.7 + 1.3 * len(images)), squeeze=False, layout='constrained'
    )
    figure.get_layout_engine().set(h_pad=0.08)
    for ax in axes.flat:
      ax.set(xticks=[], yticks=[])
    for i, row in enumerate(axes):
      row[0].imshow(images[i] if images.shape[-1] == 3 else images[i].mean(-1), cmap='gray')
      row[0].set_xlabel(f'image {indices[i]}\nlabel {labels[i]}')
      others = iter(row[1:])
      for each in looks:
        own = dict(zip(each.maps, others, strict=False))
        middle = own[list(own)[(len(own) - 1) // 2]]
        for name, ax in own.items():
          brightest = max(other.maps[name][i].max() for other in looks if name in other.maps)
          ax.imshow(each.maps[name][i], cmap='inferno', vmin=0, vmax=brightest)
          if i == 0:
            ax.set_title((f'{each.title}\n' if ax is middle else '') + name, fontsize=9)
        middle.set_xlabel(
          f'predicts {each.predictions[i]}', color='black' if each.predictions[i] == labels[i] else 'tab:red'
        )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def read(workdirs: Sequence[str]) -> tuple[splits.Split | splits.CroppedSplit, list[tuple[str, Network, Any]]]:
  """The test split, and the title, the network and the variables of each workdir.

  Raises UserError where there is no checkpoint, or where the networks are not of one data set.
  """
  found, shared = [], None
  for workdir in workdirs:
    network, variables, metadata = checkpoint.Checkpoints(workdir).network()
    run = metadata.config
    data = (run.data.name, run.data.test_split, metadata.facts.image_shape, metadata.facts.num_classes)
    shared = shared or (data, run.data, metadata.facts)
    if data != shared[0]:
      raise UserError(f'--workdirs: {workdir} is of the data {data}, {workdirs[0]} of {shared[0]}: expected the same')
    regime = config.regime(run)
    title = f'{Path(workdir).name}: {factory.name(run.model)} {run.model.block}'
    found.append((title if regime == 'none' else f'{title}, {regime}', network, variables))
  source = sources.reopen_source(*shared[1:], f'--workdirs: {workdirs[0]}')
  return source.read(shared[1].test_split), found


def parse_images(words: Sequence[str], examples: int) -> list[int]:
  """The indices of images. Raises UserError where one is no integer, or there are not so many examples."""
  for word in words:
    if not (word.isascii() and word.isdigit() and len(word) < 10 and int(word) < examples):
      raise UserError(f'--images: {word!r}: expected integers from 0 to {examples - 1}, separated by commas')
  return [int(word) for word in words]


def main() -> None:
  given = flags.FLAGS
  require_flags(workdirs=given.workdirs, images=given.images, out=given.out)
  if Path(given.out).suffix not in FORMATS:
    raise UserError(f'--out={given.out}: expected a file that ends in one of {", ".join(FORMATS)}')
  try:
    import matplotlib  # noqa: F401
  except ModuleNotFoundError as error:
    raise UserError("Matplotlib is not installed: pip install 'moonshine-jax[report]'") from error
  split, networks = read(given.workdirs)
  indices = parse_images(given.images, len(split))
  images, labels = split.take(np.array(indices))
  draw(given.out, indices, images, labels, [look(*each, images) for each in networks])


def define_flags() -> None:
  """Those of the command; the report has flags of these names too."""
  flags.DEFINE_list('workdirs', None, 'The workdirs of the networks, the teacher first.')
  flags.DEFINE_list('images', ['0', '1', '2'], 'Which images of the test split, from 0.')
  flags.DEFINE_string('out', None, 'PNG, SVG or PDF file for the picture.')
