import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from moonshine_jax.data import sources, splits
from moonshine_jax.errors import UserError


@pytest.mark.parametrize(
  'split',
  [
    'train',
    'train[:50%]',
    'train[33%:]',
    'train[10:20]',
    'train[-7:]',
    'train[-20%:-10%]',
    'test[:1%]',
    'train[:1297]',
  ],
)
def test_a_part_of_a_split_is_the_one_that_tfds_would_take(split):
  source = sources.DigitsSource()
  (instruction,) = tfds.core.ReadInstruction.from_spec(split).to_absolute(
    {
      name: tfds.core.SplitInfo(name=name, shard_lengths=[len(source.read(name))], num_bytes=0, filename_template=None)
      for name in ('train', 'test')
    }
  )
  part = slice(instruction.from_, instruction.to)
  np.testing.assert_array_equal(source.read(split).images, source.read(instruction.splitname).images[part])
  np.testing.assert_array_equal(source.read(split).labels, source.read(instruction.splitname).labels[part])


@pytest.mark.parametrize(
  ('split', 'message'),
  [
    ('val', "digits has no split 'val': expected train or test, or a part of one, as train\\[:50%\\]"),
    ('train[:50%', 'has no split'),
    ('train[::2]', 'has no split'),
    ('', 'has no split'),
    ('train[:2000]', "split 'train\\[:2000\\]': expected a part of the 1297 examples of train"),
    ('train[20:10]', 'expected a part of the 1297 examples'),
    ('train[-200%:]', 'expected a part of the 1297 examples'),
  ],
)
def test_what_is_no_part_of_a_split(split, message):
  with pytest.raises(UserError, match=message):
    sources.DigitsSource().read(split)


def test_the_sample_of_images_of_any_size_is_evenly_spaced():
  sample = splits.CroppedSplit(None, 'train', 1281167, 1000).sample()  # as ImageNet's
  assert len(sample) == splits.SAMPLE
  assert sample[-1] == 1281166 and set(np.diff(sample)) == {640, 641}


@pytest.mark.parametrize(
  ('labels', 'message'), [([0, -1], 'some examples have no label'), ([2, 3], 'a label is 3: expected less than 3')]
)
def test_labels_of_no_class(labels, message):
  class Decoders:
    def read(self, split, index, key):
      return np.zeros((2, 4, 4, 3), np.uint8), np.array(labels, np.int32)

  with pytest.raises(UserError, match=f"split 'train': {message}"):
    splits.CroppedSplit(Decoders(), 'train', 2, 3).take(np.arange(2))


def test_facts_come_back_from_json():
  facts = splits.Facts((8, 8, 1), 10, (78.0,), (95.5,))
  assert splits.Facts.from_json(json.loads(json.dumps(facts.to_json()))) == facts
