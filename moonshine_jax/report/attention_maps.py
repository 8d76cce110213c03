"""A picture of the attention maps of a teacher and its students, side by side: what attention transfer compares.

The picture has a row for each image of the test split, with its label. For each network it shows the normalised maps
of the network's activations (conv2, conv3 and conv4 of a Wide ResNet) and the label that it predicts. The maps of one
activation and one image share their colours, black for 0. Needs Matplotlib.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from moonshine_jax import config, losses
from moonshine_jax.data import splits
from moonshine_jax.errors import UserError
from moonshine_jax.models import factory
from moonshine_jax.models.network import Network
from moonshine_jax.runtime import files
from moonshine_jax.workdir.trained import Trained

PICTURE_SUFFIXES = ('.png', '.svg', '.pdf')


class NetworkMaps(NamedTuple):
  """The attention maps and the predictions of one network for some images.

  Attributes:
    title: title of the network.
    predictions: predicted labels (images,).
    maps: map of each activation by its name, float32 (images, height, width); each image's has L2 norm 1.
  """

  title: str
  predictions: np.ndarray
  maps: dict[str, np.ndarray]


def compute_maps(title: str, network: Network, variables: Any, images: np.ndarray) -> NetworkMaps:
  """Applies a network to images in evaluation mode and computes its attention maps.

  Args:
    title: title of the network.
    network: the network.
    variables: variables of the network.
    images: uint8 (images, height, width, channels).

  Returns:
    The maps and the predictions.

  Raises:
    UserError: if the network gives no activations.
  """
  logits, activations = jax.jit(lambda variables, images: network(variables, images, train=False))(variables, images)
  if not activations:
    raise UserError(f'{title}: the network gives no activations: expected some to draw')
  names = factory.activation_names(network.model, len(activations))
  return NetworkMaps(
    title,
    np.asarray(logits.argmax(-1)),
    {
      name: np.asarray(losses.attention_map(activation)).reshape(activation.shape[:3])
      for name, activation in zip(names, activations, strict=True)
    },
  )


def draw_attention_maps(
  path: str | os.PathLike,
  indices: Sequence[int],
  images: np.ndarray,
  labels: np.ndarray,
  networks: Sequence[NetworkMaps],
  classes: Sequence[str] = (),
) -> None:
  """Writes a picture of images and of each network's attention maps and predictions for them.

  Args:
    path: file to write; its ending, of PICTURE_SUFFIXES, sets the format.
    indices: indices of the images in their split.
    images: uint8 (images, height, width, channels).
    labels: labels of the images (images,).
    networks: attention maps of each network for these images.
    classes: names of the classes; none for their numbers.

  Raises:
    UserError: if the file cannot be written.
  """
  import matplotlib.pyplot as plt
  from matplotlib.layout_engine import ConstrainedLayoutEngine

  from moonshine_jax.report.figures import label_text, plot_settings  # sets Matplotlib up to write files, too

  titled = [network._replace(title=label_text(network.title)) for network in networks]
  with plot_settings():
    columns = 1 + sum(len(network.maps) for network in networks)
    figure, axes = plt.subplots(
      len(images),
      columns,
      figsize=(1.1 * columns, 0.7 + 1.3 * len(images)),
      squeeze=False,
      layout=ConstrainedLayoutEngine(h_pad=0.08),
    )
    for ax in axes.flat:
      ax.set(xticks=[], yticks=[])
    for i, row in enumerate(axes):
      row[0].imshow(images[i] if images.shape[-1] == 3 else images[i].mean(-1), cmap='gray')
      row[0].set_xlabel(f'image {indices[i]}\nlabel {_class_name(labels[i], classes)}')
      _draw_row(row[1:], i, labels[i], titled, classes)
    picture = io.BytesIO()
    figure.savefig(picture, format=Path(path).suffix[1:], dpi=150)
    plt.close(figure)
  files.write_atomically(path, picture.getvalue())


def _draw_row(axes: Sequence[Any], i: int, label: int, networks: Sequence[NetworkMaps], classes: Sequence[str]) -> None:
  """Draws the maps of image i; the first row has titles, and a wrong prediction is red."""
  remaining_axes = iter(axes)
  for network in networks:
    axes_by_name = dict(zip(network.maps, remaining_axes, strict=False))
    middle = axes_by_name[list(axes_by_name)[(len(axes_by_name) - 1) // 2]]
    for name, ax in axes_by_name.items():
      brightest = max(other.maps[name][i].max() for other in networks if name in other.maps)
      ax.imshow(network.maps[name][i], cmap='inferno', vmin=0, vmax=brightest)
      if i == 0:
        ax.set_title((f'{network.title}\n' if ax is middle else '') + name, fontsize=9)
    prediction = network.predictions[i]
    middle.set_xlabel(
      f'predicts {_class_name(prediction, classes)}', color='black' if prediction == label else 'tab:red'
    )


def _class_name(label: int, classes: Sequence[str]) -> str:
  """Returns the name of a class as Matplotlib writes it; its number where it has none."""
  from moonshine_jax.report.figures import label_text

  return label_text(classes[label]) if classes else str(label)


def open_workdirs(
  workdirs: Sequence[str], trust_code: bool = False, data: str | None = None, data_dir: str | None = None
) -> tuple[splits.Split | splits.CroppedSplit, list[tuple[str, Network, Any]], tuple[str, ...]]:
  """Opens the networks of workdirs, trained on one data set, and the test split of that data set.

  Args:
    workdirs: workdirs of the networks.
    trust_code: whether user-defined functions that they name are loaded, whatever they are: see `Trained.open`.
    data: another name of the data that all of them were trained on, in place of the configs' `data.name`.
    data_dir: where the data is, in place of the configs' `data.data_dir`.

  Returns:
    The test split, the title, the network and the variables of each workdir, and the names of the classes.

  Raises:
    UserError: if a workdir has no checkpoint, or the networks are of different data sets.
  """
  opened = [Trained.open(workdir, trust_code).with_data(data, data_dir) for workdir in workdirs]
  first = opened[0]
  networks = []
  for workdir, trained in zip(workdirs, opened, strict=True):
    if _data(trained) != _data(first):
      raise UserError(
        f'--workdirs: {workdir} is of the data {_data(trained)}, {workdirs[0]} of {_data(first)}: expected the same; '
        '--data=NAME is a name for all'
      )
    model, regime = trained.config.model, config.regime(trained.config)
    title = f'{Path(workdir).name}: {factory.network_name(model)} {model.block}'
    networks.append((title if regime == 'none' else f'{title}, {regime}', trained.network, trained.variables))
  return first.source().read(first.config.data.test_split), networks, first.facts.classes


def _data(trained: Trained) -> tuple[str, str, tuple[int, ...], int]:
  """Returns what networks of one data set have in common: its name, test split, image shape and number of classes."""
  data, facts = trained.config.data, trained.facts
  return data.name, data.test_split, facts.image_shape, facts.num_classes


def parse_image_indices(words: Sequence[str], examples: int) -> list[int]:
  """Parses the indices of images in a split of so many examples.

  Args:
    words: indices as text.
    examples: number of examples in the split.

  Returns:
    The indices, from 0.

  Raises:
    UserError: if a word is no integer, or there are not so many examples.
  """
  for word in words:
    if not (word.isascii() and word.isdigit() and len(word) < 10 and int(word) < examples):
      raise UserError(f'--images: {word!r}: expected integers from 0 to {examples - 1}, separated by commas')
  return [int(word) for word in words]
