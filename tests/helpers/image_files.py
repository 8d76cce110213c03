"""Images in the layouts in which people have them: folders, and CIFAR's archives in both versions."""

import pickle
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def noise(seed, examples, shape=(32, 32, 3)):
  """Images that differ from each other in every pixel."""
  return np.random.default_rng(seed).integers(0, 256, (examples, *shape), np.uint8)


def write_folder(root, images, labels, classes, ending='png'):
  """Writes ROOT/CLASS/NUMBER.png, numbered in the order of the examples."""
  for i, (image, label) in enumerate(zip(images, labels, strict=True)):
    path = Path(root) / classes[label] / f'{i:05}.{ending}'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.squeeze()).save(path)
  return Path(root)


def write_binary(path, images, *labels):
  """Writes a file of CIFAR's binary version: the labels of each image, one byte each, then its planes."""
  planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
  path.parent.mkdir(parents=True, exist_ok=True)
  np.column_stack([*(np.uint8(each) for each in labels), planes]).tofile(path)


def write_pickle(path, values):
  """Writes a file of CIFAR's version for Python, as Python 2 reads it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(pickle.dumps(values, protocol=2))


def write_batch(path, images, **labels):
  """Writes a batch of CIFAR's version for Python."""
  planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
  write_pickle(path, {'data': planes} | {name: [int(each) for each in values] for name, values in labels.items()})


def pack(folder, path):
  """Packs a folder as CIFAR's archives are packed."""
  with tarfile.open(path, 'w:gz') as archive:
    archive.add(folder, Path(folder).name)
  return path
