import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from moonshine_jax.configs import digits
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
  sample = splits.CroppedSplit(None, range(1281167), 'train', 1000).sample()  # as ImageNet's
  assert len(sample) == splits.SAMPLE
  assert sample[-1] == 1281166 and set(np.diff(sample)) == {640, 641}


@pytest.mark.parametrize(
  ('labels', 'message'),
  [
    ([0, -1], '1 of 2 examples have no label'),
    ([2, 3], '1 of 2 examples have a label of no class, the first of them 3'),
  ],
)
def test_labels_of_no_class(labels, message):
  class Decoders:
    def read(self, split, index, key):
      return np.zeros((2, 4, 4, 3), np.uint8), np.array(labels, np.int32)

  with pytest.raises(UserError, match=f"split 'train': {message}"):
    splits.CroppedSplit(Decoders(), [0, 1], "split 'train'", 3).take(np.arange(2))


def test_facts_come_back_from_json():
  facts = splits.Facts((8, 8, 1), 10, (78.0,), (95.5,))
  named = splits.Facts((8, 8, 1), 2, (78.0,), (95.5,), ('cat', 'd\udcffg'), '3 images', '1 image')
  for each in (facts, named):
    assert splits.Facts.from_json(json.loads(json.dumps(each.to_json()))) == each
  older = {name: value for name, value in facts.to_json().items() if name not in ('classes', 'train', 'test')}
  assert splits.Facts.from_json(older) == facts
  with pytest.raises(ValueError, match='1 names of 2 classes'):
    splits.Facts.from_json(named.to_json() | {'classes': ['cat']})


@pytest.mark.parametrize('kind', ['one size', 'any size'])
def test_what_is_held_out_is_the_rest_of_what_is_trained_on(kind):
  labels = np.arange(50, dtype=np.int32) % 10

  class Examples:
    remedy = ''

    def __len__(self):
      return 50

    def reader(self, index):
      return list(index)

  class Decoders:
    def read(self, examples, index, key):
      index = np.array(examples.reader(index.tolist()))
      return np.full((len(index), 2, 2, 1), index[:, None, None, None], np.uint8), labels[index]

  images, _ = Decoders().read(Examples(), np.arange(50), None)
  whole = {
    'one size': splits.Split(images, labels),
    'any size': splits.CroppedSplit(Decoders(), Examples(), 'train', 10),
  }[kind]
  train, held_out = splits.hold_out(whole, 0.2)
  assert (len(train), len(held_out)) == (40, 10)
  seen = [part.take(np.arange(len(part)))[0][:, 0, 0, 0] for part in (train, held_out)]
  assert sorted(np.concatenate(seen)) == list(range(50))
  assert max(np.diff(np.sort(seen[1]))) > 1  # drawn, not the last of them
  np.testing.assert_array_equal(held_out.take(np.array([3, 0]))[1], labels[seen[1][[3, 0]]])
  np.testing.assert_array_equal(splits.hold_out(whole, 0.2)[1].take(np.arange(10))[0][:, 0, 0, 0], seen[1])


def test_nothing_is_held_out_of_too_few():
  with pytest.raises(UserError, match=r'config.data.held_out=0.1: that is none of the 3 training examples'):
    splits.hold_out(splits.Split(np.zeros((3, 2, 2, 1), np.uint8), np.zeros(3, np.int32)), 0.1)


def test_a_run_is_evaluated_on_what_it_does_not_train_on():
  config = digits.get_config().data
  source = sources.DigitsSource()
  assert [len(split) for split in sources.read_splits(source, config)] == [1297, 500]
  config.held_out = 0.1
  assert [len(split) for split in sources.read_splits(source, config)] == [1167, 130]
  assert sources.evaluated_on(config) == 'held-out'


def test_facts_in_words():
  facts = splits.Facts((8, 6, 1), 12, (78.0,), (95.5,), tuple('abcdefghijkl'), '3 images of hash 12', '')
  assert (
    facts.describe() == 'images of 8x6x1; 12 classes (a, b, c, d, e, f, g, h, i, j, ...); train: 3 images of hash 12'
  )
  assert splits.Facts((8, 6, 1), 12, (78.0,), (95.5,)).describe() == 'images of 8x6x1; 12 classes'


@pytest.mark.parametrize(
  ('there', 'name', 'found'),
  [
    (('train', 'val'), 'test[:50%]', 'val'),
    (('train', 'val'), 'validation', 'val'),
    (('train', 'val', 'test'), 'test', 'test'),
    (('train', 'val', 'test'), 'dev', 'val'),
    (('train', 'test'), 'val', None),
    (('train',), 'test', None),
    (('val', 'test'), 'train', None),
  ],
)
def test_a_split_for_choices_goes_by_any_of_its_names_and_stands_for_a_test(there, name, found):
  if found:
    assert splits.find_part(there, name, 'data').name == found
  else:
    with pytest.raises(UserError, match=f'data set data has no split .{name}.: expected {" or ".join(there)}'):
      splits.find_part(there, name, 'data')
