"""A data set whose files are of odd kinds."""

import io

import pytest
import tensorflow_datasets as tfds
from PIL import Image

from moonshine_jax import errors


@pytest.fixture(autouse=True)
def nothing_was_said():
  """What is printed once in a process, each test may see."""
  errors.warn_once.cache_clear()


class OddImages(tfds.core.GeneratorBasedBuilder):
  """Images of 16x16: transparent ones to train on; of four in the test, one is no image, in `other_size` one 16x9."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {'image': tfds.features.Image(shape=(16, 16, 3)), 'label': tfds.features.ClassLabel(num_classes=2)}
      ),
    )

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in ('train', 'test', 'other_size')}

  def _generate_examples(self, split):
    for i in range(4):
      file = io.BytesIO()
      height = 9 if split == 'other_size' and i == 2 else 16
      Image.new('RGBA', (16, height), (200, 100, 50, 255 if i else 0)).save(file, 'PNG')
      yield i, {'image': b'none' if split == 'test' and i == 2 else file.getvalue(), 'label': i % 2}


@pytest.fixture(scope='session')
def odd_images(tmp_path_factory):
  """The data_dir in which the data set `odd_images` is prepared as array_record."""
  data_dir = tmp_path_factory.mktemp('tfds')
  OddImages(data_dir=data_dir, file_format='array_record').download_and_prepare()
  return str(data_dir)
