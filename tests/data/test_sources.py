import dataclasses

import ml_collections
import numpy as np
import pytest

from moonshine_jax.data import sources, splits
from moonshine_jax.errors import UserError


def data_config(name, data_dir='', image_size=0):
  return ml_collections.ConfigDict({'name': name, 'data_dir': data_dir, 'image_size': image_size})


def test_digits_are_whole_and_split():
  source = sources.open_source(data_config('digits'))
  train, test = source.read('train'), source.read('test')
  assert (len(train), len(test)) == (1297, 500)
  assert train.images.shape == (1297, 8, 8, 1) and train.images.dtype == np.uint8
  assert train.images.min() == 0 and train.images.max() == 255
  assert set(train.labels) == set(test.labels) == set(range(10))
  with pytest.raises(UserError, match='expected train or test'):
    source.read('validation')


def test_data_that_has_changed_since_a_run_is_refused():
  facts = splits.Facts((8, 8, 1), 10, (78.0,), (95.0,))
  assert sources.reopen_source(data_config('digits'), facts, 'runs/one').num_classes == 10
  for other in (splits.Facts((8, 8, 1), 3, (78.0,), (95.0,)), splits.Facts((9, 8, 1), 10, (78.0,), (95.0,))):
    with pytest.raises(UserError, match='^runs/one: trained on other data than digits is now: .*there: '):
      sources.reopen_source(data_config('digits'), other, 'runs/one')


def test_facts_are_those_of_the_pixels(tiny_images):
  source = sources.open_source(data_config('tiny_images', tiny_images))
  train = source.read('train')
  facts = sources.measure_facts(source, train, source.read('test'))
  np.testing.assert_allclose(facts.mean, train.images.mean((0, 1, 2)), rtol=1e-12)
  np.testing.assert_allclose(facts.std, train.images.std((0, 1, 2)), rtol=1e-9)


def test_a_channel_that_never_changes_is_not_divided_by_zero():
  images = np.full((3, 2, 2, 1), 7, np.uint8)
  source = sources.DigitsSource()
  constant = splits.Split(images, np.zeros(3, np.int32))
  assert sources.measure_facts(source, constant, constant).std == (1.0,)


def test_images_of_any_size_are_cropped_to_one(varied_images):
  source = sources.open_source(data_config('varied_images', varied_images, image_size=12))
  assert (source.image_shape, source.num_classes) == ((12, 12, 3), 3)
  train = source.read('train')
  facts = sources.measure_facts(source, train, source.read('test'))
  assert len(train) == 40 and len(source.read('test[:4]')) == 4
  images, labels = train.take(np.arange(40).reshape(8, 5))
  assert images.shape == (8, 5, 12, 12, 3) and images.dtype == np.uint8
  assert np.bincount(labels.ravel()).tolist() == [14, 13, 13]
  np.testing.assert_allclose(facts.mean, images.mean((0, 1, 2, 3)), rtol=1e-12)
  assert facts.image_shape == (12, 12, 3)


def test_digits_are_not_cropped():
  with pytest.raises(UserError, match='config.data.image_size=12: expected 0 for digits'):
    sources.open_source(data_config('digits', image_size=12))


PIXELS = np.random.default_rng(0).integers(0, 256, (30, 2, 2, 3), np.uint8)


class Source:
  def __init__(self, num_classes):
    self.image_shape, self.num_classes, self.classes = (2, 2, 3), num_classes, ()


@pytest.mark.parametrize(
  ('pixels', 'labels', 'num_classes', 'warning'),
  [
    (PIXELS, np.arange(30) % 3, 3, ''),
    (PIXELS * 0 + 7, np.arange(30) % 3, 3, 'the pixels of all training images are equal: there is nothing to learn'),
    (PIXELS * np.uint8([1, 0, 1]), np.arange(30) % 3, 3, 'channel 1 of 3 never changes in the training images'),
    (PIXELS * np.uint8([0, 0, 1]) + 255, np.arange(30) % 3, 3, 'channel 0, 1 of 3 never changes'),
    (PIXELS // 128, np.arange(30) % 3, 3, 'the pixels of all training images are 0 or 1: expected 0 to 255'),
    (PIXELS, np.arange(30) * 0 + 2, 3, 'all training images are of class 2: there is nothing to learn'),
    (PIXELS, np.arange(30) * 0, 1, 'all training images are of class 0: there is nothing to learn'),
    (PIXELS, np.arange(30) % 3 + 1, 4, 'no training image is of class 0, and some are of class 3: expected labels fro'),
    (PIXELS, np.arange(30) % 3 * 50, 101, '98 of 101 classes have no training image (1, 2, 3, 4, 5, ...): expected la'),
    (PIXELS, np.arange(30) % 3, 5, '2 of 5 classes have no training image (3, 4): expected labels without gaps'),
  ],
)
def test_what_is_doubtful_is_one_line(pixels, labels, num_classes, warning, capsys):
  train = splits.Split(pixels.astype(np.uint8), labels.astype(np.int32))
  for _ in range(2):
    sources.measure_facts(Source(num_classes), train, train)
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == bool(warning) and all(line.startswith(f'warning: {warning}') for line in lines)


def test_a_fingerprint_is_of_the_number_the_labels_and_some_pixels():
  labels = (np.arange(500) % 3).astype(np.int32)
  images = np.random.default_rng(0).integers(0, 256, (500, 2, 2, 3), np.uint8)
  fingerprint = sources.fingerprint(splits.Split(images, labels))
  assert fingerprint.startswith('500 images of hash ') and len(fingerprint) == 35
  assert sources.fingerprint(splits.Split(images.copy(), labels.copy())) == fingerprint
  other_labels, other_images = labels.copy(), images.copy()
  other_labels[123] = 1
  other_images[0, 1, 1, 2] ^= 1
  for changed in (splits.Split(images, other_labels), splits.Split(other_images, labels)):
    assert sources.fingerprint(changed).startswith('500 images of hash ')
    assert sources.fingerprint(changed) != fingerprint
  assert sources.fingerprint(splits.Split(images[:499], labels[:499])) != fingerprint


def test_other_data_under_the_name_of_a_run_is_refused():
  source = sources.DigitsSource()
  facts = sources.measure_facts(source, source.read('train'), source.read('test'))
  assert facts.classes == tuple('0123456789')
  reopened = dataclasses.replace(facts, classes=tuple('1023456789'))
  with pytest.raises(UserError, match="^runs/one: trained on other data than digits is now: the class '0' .there: '1'"):
    sources.reopen_source(data_config('digits'), reopened, 'runs/one')
