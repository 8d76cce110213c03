"""Data of a user's function: right arrays are taken as they are, each mistake is one line that says what is right."""

import jax.numpy as jnp
import numpy as np
import pytest

from moonshine_jax.data.user import FunctionSource
from moonshine_jax.errors import UserError
from moonshine_jax.runtime import user_functions
from tests.helpers import user

NAME = 'tests.helpers.user:images'
RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (12, 8, 7, 1), np.uint8), np.arange(12) % 3
TEST = X[:4], Y[:4]


@pytest.fixture
def opened(monkeypatch):
  """Opens the source of a function."""

  def open_function(function):
    monkeypatch.setattr(user_functions, 'load', lambda name: function)
    return FunctionSource(NAME)

  return open_function


def test_user_defined_data():
  source = FunctionSource(NAME)
  train, test = source.read('train'), source.read('test')
  assert (source.image_shape, source.num_classes, len(train), len(test)) == ((8, 8, 2), 3, 48, 15)
  assert train.labels.dtype == np.int32
  np.testing.assert_array_equal(train.images, user.images()['train'][0])
  with pytest.raises(UserError, match=f"data set {NAME} has no split 'validation': expected train or test"):
    source.read('validation')


@pytest.mark.parametrize(
  ('images', 'labels'),
  [
    (list(X), list(map(int, Y))),
    (jnp.asarray(X), jnp.asarray(Y)),
    (np.asfortranarray(X), Y.astype('>i8')),
    (np.ma.array(X), Y.astype(np.uint64)),
    (X, tuple(Y.astype(np.uint8))),
  ],
  ids=['lists', 'JAX', 'other orders', 'mask of nothing', 'tuples'],
)
def test_arrays_of_many_kinds_are_taken(images, labels, opened):
  source = opened(lambda: {'train': (images, labels), 'test': (images, labels)})
  read = source.read('train')
  np.testing.assert_array_equal(read.images, X)
  np.testing.assert_array_equal(read.labels, Y)


@pytest.mark.parametrize(
  ('shape', 'warns'),
  [
    ((3, 32, 32), True),
    ((1, 28, 28), True),
    ((4, 8, 16), True),
    ((32, 32, 3), False),
    ((5, 40, 1), False),
    ((1, 1, 3), False),
    ((8, 8, 13), False),
    ((1, 40, 3), False),
  ],
)
def test_images_whose_channels_come_first_are_a_doubt(shape, warns, opened, capsys):
  images = np.zeros((3, *shape), np.uint8)
  assert opened(lambda: {'train': (images, [0, 1, 2])}).image_shape == shape
  expected = (
    f"warning: config.data.name='{NAME}': images of {shape} have a height of {shape[0]} and {shape[2]} channels: "
    'if the channels come first, expected images.transpose(0, 2, 3, 1)\n'
  )
  assert capsys.readouterr().err == warns * expected


def generator():
  yield TEST


@pytest.mark.parametrize(
  ('function', 'message'),
  [
    (lambda: 1 / 0, ': ZeroDivisionError: .*expected a function that is called without arguments and returns'),
    (lambda: [1], ": returned a list: expected {'train': .images, labels."),
    (generator, ': returned a generator: expected'),
    (dict, ': returned the keys \\[\\]: expected'),
    (lambda: {0: TEST}, ': returned the keys \\[0\\]: expected'),
    (lambda: {'train': TEST, 'test': (X[:, 1:], Y)}, r': the images of train are \(8, 7, 1\) and test are \(7, 7, 1\)'),
    (lambda: {'train': TEST, 'test': (X[:0], Y[:0])}, r", split 'test': images have the shape \(0, 8, 7, 1\)"),
  ],
)
def test_functions_that_return_no_splits(function, message, opened):
  with pytest.raises(UserError, match=f"^config.data.name='{NAME}'" + message):
    opened(function)


OBJECTS = np.array([*X, None], dtype=object)[:-1]


@pytest.mark.parametrize(
  ('value', 'message'),
  [
    (X, 'a ndarray: expected the two arrays'),
    ((X,), 'a tuple of 1: expected the two arrays'),
    ({'image': X, 'label': Y}, 'a dict: expected the two arrays'),
    (((x for x in X), Y), 'images are one Python object .generator.: expected uint8'),
    ((list(X) + list(X[:, 1:]), [*Y, *Y]), r'images of 2 shapes, as \(8, 7, 1\) and \(7, 7, 1\): expected one$'),
    ((OBJECTS, Y), r'images are Python objects .ndarray \(8, 7, 1\).: expected uint8'),
    ((np.ma.masked_equal(X, X[0, 0, 0, 0]), Y), 'images are masked in parts: expected an array without a mask'),
    ((X, np.ma.masked_equal(Y, 1)), 'labels are masked in parts'),
    ((X / 255, Y), r'images are float64 from 0 to 1: expected uint8, .*255: np.round\(images \* 255.0\).astype'),
    ((X / 127.5 - 1, Y), r'images are float64 from -1 to 1: .*255: np.round\(\(images \+ 1\) \* 127.5\).astype'),
    ((X.astype(np.float32), Y), r'images are float32 from 0 to 255: .*255: np.round\(images\).astype\(np.uint8\): th'),
    ((X.astype(int), Y), r'images are int64 from 0 to 255: .*: np.round\(images\).astype'),
    ((X.astype(np.uint16) * 257, Y), r'images are uint16 from 0 to 65535: .*: np.round\(images / 257\).astype'),
    ((X > 100, Y), r'images are bool: .*: np.round\(images \* 255.0\).astype'),
    ((X / 127.5 - 9, Y), 'images are float64 from -9 to -7: expected uint8, from 0 to 255: they are normalised later'),
    ((np.where(X > 9, np.nan, 3.0), Y), 'images are float64 from 3 to 3, .* of them not finite: expected uint8'),
    ((X + 1j, Y), 'images are complex128: expected uint8'),
    ((X[..., 0], Y), r'images have the shape \(12, 8, 7\): .*channels.: images\[..., None\], if they are grey$'),
    ((X[None], Y), r'images have the shape \(1, 12, 8, 7, 1\): expected \(examples, height, width, channels\)$'),
    ((X, Y.astype(float)), r'labels are float64 from 0 to 2: expected integers .*image: labels.astype\(int\)$'),
    ((X, np.where(Y == 1, np.nan, Y)), 'labels are float64 from 0 to 2, 4 of them not finite: expected .*image$'),
    ((X, Y + 0.5), 'labels are float64 from 0.5 to 2.5: expected integers from 0, one for each image$'),
    ((X, Y > 1), r'labels are bool: .*: labels.astype\(int\)$'),
    ((X, np.array(list('abc'))[Y]), r'labels are <U1: expected .*: np.unique\(labels, return_inverse=True\)\[1\], ov'),
    ((X, np.array(list('abc')).astype('S')[Y]), r'labels are \|S1: expected .*: np.unique'),
    ((X, np.eye(3, dtype=int)[Y]), r'labels have the shape \(12, 3\): expected \(12,\).*: labels.argmax\(1\), if the'),
    ((X, Y[:, None]), r'labels have the shape \(12, 1\): expected \(12,\), .*: labels\[:, 0\]$'),
    ((X, Y[:-1]), r'labels have the shape \(11,\): expected \(12,\), one for each image$'),
    ((X, Y - 1), 'labels are from -1 to 1: expected integers from 0'),
    ((X, Y * 10**6), 'labels are from 0 to 2000000: expected integers from 0 to less than 1,000,000'),
    ((X, None), 'labels are one Python object .NoneType.: expected integers'),
  ],
)
def test_arrays_that_do_not_fit(value, message, opened):
  with pytest.raises(UserError, match=f"^config.data.name='{NAME}', split 'train': " + message) as error:
    opened(lambda: {'train': value, 'test': TEST})
  assert len(str(error.value)) < 400
