import ml_collections
import numpy as np
import pytest

from moonshine_jax.data import sources, splits
from moonshine_jax.errors import UserError
from moonshine_jax.runtime import user_functions
from tests.helpers import user


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
    with pytest.raises(UserError, match='^runs/one: trained on other data than digits is now: Facts'):
      sources.reopen_source(data_config('digits'), other, 'runs/one')


def test_facts_are_those_of_the_pixels(tiny_images):
  source = sources.open_source(data_config('tiny_images', tiny_images))
  train = source.read('train')
  facts = sources.measure_facts(source, train)
  np.testing.assert_allclose(facts.mean, train.images.mean((0, 1, 2)), rtol=1e-12)
  np.testing.assert_allclose(facts.std, train.images.std((0, 1, 2)), rtol=1e-9)


def test_a_channel_that_never_changes_is_not_divided_by_zero():
  images = np.full((3, 2, 2, 1), 7, np.uint8)
  source = sources.DigitsSource()
  assert sources.measure_facts(source, splits.Split(images, np.zeros(3, np.int32))).std == (1.0,)


def test_images_of_any_size_are_cropped_to_one(varied_images):
  source = sources.open_source(data_config('varied_images', varied_images, image_size=12))
  assert (source.image_shape, source.num_classes) == ((12, 12, 3), 3)
  train = source.read('train')
  facts = sources.measure_facts(source, train)
  assert len(train) == 40 and len(source.read('test[:4]')) == 4
  images, labels = train.take(np.arange(40).reshape(8, 5))
  assert images.shape == (8, 5, 12, 12, 3) and images.dtype == np.uint8
  assert np.bincount(labels.ravel()).tolist() == [14, 13, 13]
  np.testing.assert_allclose(facts.mean, images.mean((0, 1, 2, 3)), rtol=1e-12)
  assert facts.image_shape == (12, 12, 3)


def test_digits_are_not_cropped():
  with pytest.raises(UserError, match='config.data.image_size=12: expected 0 for digits'):
    sources.open_source(data_config('digits', image_size=12))


def images(shape=(4, 8, 8, 1), dtype=np.uint8):
  return np.zeros(shape, dtype)


@pytest.mark.parametrize(
  ('splits', 'message'),
  [
    (lambda: 1 / 0, ': ZeroDivisionError: .*expected a function that is called without arguments and returns'),
    (lambda: [1], ": returned a list: expected {'train': .images, labels."),
    (lambda: {'train': images()}, ", split 'train': a ndarray: expected the two arrays"),
    (lambda: {'train': (images(dtype=np.float32), [0] * 4)}, ", split 'train': images are float32: expected uint8"),
    (lambda: {'train': (images((4, 8, 8)), [0] * 4)}, ", split 'train': images have the shape .4, 8, 8.: exp"),
    (lambda: {'train': (images(), [0.0] * 4)}, ", split 'train': labels are float64: expected integers from 0"),
    (lambda: {'train': (images(), [0] * 3)}, r", split 'train': labels have the shape \(3,\): expected \(4,\)"),
    (
      lambda: {'train': (images(), [0, 1, 2, -1])},
      ", split 'train': labels are from -1 to 2: expected integers from 0",
    ),
    (
      lambda: {'train': (images(), [0] * 4), 'test': (images((1, 9, 8, 1)), [0])},
      r': the images of train are \(8, 8, 1\) and test are \(9, 8, 1\): expected one size',
    ),
  ],
)
def test_user_defined_data_that_does_not_fit(splits, message, monkeypatch):
  monkeypatch.setattr(user, 'images', splits)
  user_functions.load.cache_clear()
  with pytest.raises(UserError, match="^config.data.name='tests.helpers.user:images'" + message):
    sources.FunctionSource('tests.helpers.user:images')
  user_functions.load.cache_clear()


def test_user_defined_data():
  source = sources.FunctionSource('tests.helpers.user:images')
  train, test = source.read('train'), source.read('test')
  assert (source.image_shape, source.num_classes, len(train), len(test)) == ((8, 8, 2), 3, 48, 15)
  assert train.labels.dtype == np.int32
  np.testing.assert_array_equal(train.images, user.images()['train'][0])
  with pytest.raises(
    UserError, match="data set tests.helpers.user:images has no split 'validation': expected train or test"
  ):
    source.read('validation')
