"""Data sets that are the arrays of one `.npz` file, as MedMNIST and Keras have theirs."""

from typing import Any

import numpy as np

from moonshine_jax.data.arrays import ArraySource
from moonshine_jax.data.names import PathName
from moonshine_jax.errors import UserError, shown

# The names of the arrays of a split: ours and MedMNIST's, and Keras'.
NAMES = ('{}_images', '{}_labels'), ('x_{}', 'y_{}')
SPLITS = 'train', 'test', 'val', 'valid', 'validation'
EXPECTED = 'expected train_images, train_labels, test_images and test_labels, or x_train, y_train, x_test and y_test'


class NpzSource(ArraySource):
  """The arrays of an `.npz` file. Grey images may lack the axis of channels, and labels may be a column.

  Python objects in it are never unpickled. It is read whole, once, when the source is opened.
  """

  def __init__(self, name: PathName, data_dir: str):
    """Reads the file.

    Args:
      name: of the form 'npz:PATH'.
      data_dir: where a relative path begins.

    Raises:
      UserError: for a file that cannot be read, or has no such arrays.
    """
    name.check_options(())
    path = name.find(data_dir)
    where = f'config.data.name={name.text!r}'
    try:
      if not path.is_file():  # a pipe would never end
        raise ValueError('no plain file')
      arrays = np.load(path, allow_pickle=False)
      if isinstance(arrays, np.ndarray):
        raise ValueError('one array, as np.save writes it')
      with arrays:
        splits = {split: pair for split in SPLITS for names in NAMES if (pair := _read_split(arrays, split, names))}
        found = shown(sorted(arrays))
    except Exception as error:  # whatever NumPy and zipfile make of other files
      reason = ' '.join(str(error).split())
      raise UserError(
        f'{where}: cannot be read ({reason}): expected a file of arrays, as np.savez writes it'
      ) from error
    if 'train' not in splits:
      raise UserError(f'{where}: has the arrays {found}: {EXPECTED}')
    super().__init__(name.text, splits)


def _read_split(arrays: Any, split: str, names: tuple[str, str]) -> tuple[np.ndarray, np.ndarray] | None:
  """Returns the images and the labels of a split, where a file has both by these names."""
  images_name, labels_name = (name.format(split) for name in names)
  if images_name not in arrays or labels_name not in arrays:
    return None
  images, labels = arrays[images_name], arrays[labels_name]
  if images.ndim == 3:
    images = images[..., None]
  if labels.ndim == 2 and labels.shape[1] == 1:
    labels = labels[:, 0]
  return images, labels
