import errno
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import ml_collections
import numpy as np
import pytest
import tensorflow_datasets as tfds

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


def test_a_prepared_data_set_is_read_as_it_was_written(tiny_images):
  source = sources.open_source(data_config('tiny_images', tiny_images))
  assert (source.image_shape, source.num_classes) == ((8, 8, 3), 3)
  for seed, split, examples in [(0, 'train', 40), (1, 'test', 13)]:
    written = np.random.default_rng(seed).integers(0, 256, (examples, 8, 8, 3), np.uint8)
    read = source.read(split)
    # TFDS shuffles: the images are the same as a set, each with its label.
    label_of = {image.tobytes(): i % 3 for i, image in enumerate(written)}
    assert {image.tobytes(): label for image, label in zip(read.images, read.labels, strict=True)} == label_of


def test_the_decoded_arrays_are_kept_and_read_again(tiny_images, monkeypatch):
  source = sources.open_source(data_config('tiny_images', tiny_images))
  first = source.read('train[:7]')
  monkeypatch.setattr(source, '_decode', lambda *args: pytest.fail('decoded a second time'))
  second = source.read('train[:7]')
  assert len(second) == 7
  np.testing.assert_array_equal(first.images, second.images)
  np.testing.assert_array_equal(first.labels, second.labels)


def test_data_prepared_anew_is_decoded_anew(tiny_images):
  """The arrays are named after the files they came from: a file that is touched counts as another."""
  source = sources.open_source(data_config('tiny_images', tiny_images))
  source.read('test')
  before = source._cache_paths('test')
  assert all(path.exists() for path in before)
  for path in pathlib.Path(tiny_images).glob('tiny_images/1.0.0/*test.array_record*'):
    os.utime(path, (1, 1))
  assert set(before).isdisjoint(source._cache_paths('test'))
  assert len(source.read('test')) == 13


def damaged_copy(data_dir, folder, pattern, position):
  """A copy of prepared data with one bit flipped in the file of a pattern, so far into it."""
  shutil.copytree(data_dir, folder, ignore=shutil.ignore_patterns('decoded'))
  (path,) = folder.rglob(pattern)
  data = bytearray(path.read_bytes())
  data[int(position * len(data))] ^= 16
  path.write_bytes(data)
  return sources.open_source(data_config('tiny_images', str(folder)))


@pytest.mark.parametrize('position', [0.01, 0.5])
def test_a_damaged_shard_is_one_line_that_names_the_folder(tiny_images, tmp_path, position):
  source = damaged_copy(tiny_images, tmp_path / 'data', '*train.array_record*', position)
  with pytest.raises(UserError, match=f"{tmp_path}/data/tiny_images/1.0.0: split 'train' cannot be read .*damaged"):
    source.read('train')
  assert len(source.read('test')) == 13
  assert not list((tmp_path / 'data').rglob('*train*.tmp')) and not list((tmp_path / 'data').rglob('train*.npy'))
  (path,) = (tmp_path / 'data').rglob('*train.array_record*')
  path.unlink()
  with pytest.raises(UserError, match=f'{path}: No such file or directory: prepare'):
    source.read('train')


def test_a_damaged_description_is_one_line(tiny_images, tmp_path):
  with pytest.raises(UserError, match="config.data.name='tiny_images': .*Failed to"):
    damaged_copy(tiny_images, tmp_path / 'data', 'dataset_info.json', 0.5)


@pytest.mark.parametrize(
  ('file', 'damage'), [(0, 'truncated'), (0, 'flipped'), (0, 'emptied'), (1, 'truncated'), (1, 'emptied')]
)
def test_damaged_arrays_are_decoded_again(tiny_images, file, damage, capsys):
  source = sources.open_source(data_config('tiny_images', tiny_images))
  good = source.read('test')
  expected = np.array(good.images), np.array(good.labels)
  path = source._cache_paths('test')[file]
  data = path.read_bytes()
  middle = len(data) // 2
  path.write_bytes(
    {
      'truncated': data[:middle],
      'emptied': b'',
      'flipped': data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
    }[damage]
  )
  capsys.readouterr()
  again = source.read('test')
  np.testing.assert_array_equal(again.images, expected[0])
  np.testing.assert_array_equal(again.labels, expected[1])
  assert f'{source._cache_paths("test")[0]}: damaged (' in capsys.readouterr().err
  source.read('test')
  assert capsys.readouterr().err == ''


def test_a_full_disk_is_one_line_and_leaves_nothing(tiny_images, tmp_path, monkeypatch):
  shutil.copytree(tiny_images, tmp_path / 'data', ignore=shutil.ignore_patterns('decoded'))
  source = sources.open_source(data_config('tiny_images', str(tmp_path / 'data')))

  def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(np.lib.format, 'write_array_header_1_0', full)
  with pytest.raises(UserError, match='train-.*images.npy: cannot be written: No space left on device'):
    source.read('train')
  assert not list((tmp_path / 'data' / 'tiny_images' / '1.0.0' / 'decoded').iterdir())


def test_facts_are_those_of_the_pixels(tiny_images):
  source = sources.open_source(data_config('tiny_images', tiny_images))
  train = source.read('train')
  facts = sources.measure_facts(source, train)
  np.testing.assert_allclose(facts.mean, train.images.mean((0, 1, 2)), rtol=1e-12)
  np.testing.assert_allclose(facts.std, train.images.std((0, 1, 2)), rtol=1e-9)
  assert splits.Facts.from_json(facts.to_json()) == facts


def test_a_channel_that_never_changes_is_not_divided_by_zero():
  images = np.full((3, 2, 2, 1), 7, np.uint8)
  source = sources.DigitsSource()
  assert sources.measure_facts(source, splits.Split(images, np.zeros(3, np.int32))).std == (1.0,)


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('no_such_data', "'no_such_data': TFDS knows no such data set"),
    ('imdb_reviews', 'expected an image classification data set with image and label'),
    ('imagenet2012', 'expected uint8 of one size .* or of any size with config.data.image_size'),
  ],
)
def test_a_data_set_that_does_not_fit_is_refused_before_it_is_downloaded(name, message, tmp_path):
  with pytest.raises(UserError, match=message):
    sources.open_source(data_config(name, str(tmp_path)))


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
  assert len(imagenet_sample := splits.CroppedSplit(None, 'train', 1281167).sample()) == splits.SAMPLE
  assert imagenet_sample[-1] == 1281166 and set(np.diff(imagenet_sample)) == {640, 641}


def test_digits_are_not_cropped():
  with pytest.raises(UserError, match='config.data.image_size=12: expected 0 for digits'):
    sources.open_source(data_config('digits', image_size=12))


def test_an_unknown_split_is_named_with_those_that_are(tiny_images):
  source = sources.open_source(data_config('tiny_images', tiny_images))
  with pytest.raises(UserError, match=r"split 'trian'.*\['test', 'train'\]|\['train', 'test'\]"):
    source.read('trian')


def test_what_is_not_prepared_says_what_to_install(tmp_path, monkeypatch):
  source = sources.open_source(data_config('cifar10', str(tmp_path)))
  assert (source.image_shape, source.num_classes) == ((32, 32, 3), 10)  # known without the data
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match=r"cifar10 is not prepared in .*pip install 'moonshine-jax\[prepare\]'"):
    source.read('train')


def test_reading_imports_no_tensorflow(tiny_images):
  program = (
    'import sys, ml_collections; from moonshine_jax.data import sources; import tests.conftest;'
    f'c = ml_collections.ConfigDict(dict(name="tiny_images", data_dir={tiny_images!r}, image_size=0));'
    'assert len(sources.open_source(c).read("test[:5]")) == 5; assert "tensorflow" not in sys.modules'
  )
  subprocess.run([sys.executable, '-c', program], check=True)


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
def test_data_of_a_users_own_that_is_none(splits, message, monkeypatch):
  monkeypatch.setattr(user, 'images', splits)
  user_functions.load.cache_clear()
  with pytest.raises(UserError, match="^config.data.name='tests.helpers.user:images'" + message):
    sources.FunctionSource('tests.helpers.user:images')
  user_functions.load.cache_clear()


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


def test_data_of_a_users_own():
  source = sources.FunctionSource('tests.helpers.user:images')
  train, test = source.read('train'), source.read('test')
  assert (source.image_shape, source.num_classes, len(train), len(test)) == ((8, 8, 2), 3, 48, 15)
  assert train.labels.dtype == np.int32
  np.testing.assert_array_equal(train.images, user.images()['train'][0])
  with pytest.raises(
    UserError, match="data set tests.helpers.user:images has no split 'validation': expected train or test"
  ):
    source.read('validation')
