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

from moonshine_jax.data import sources
from moonshine_jax.data.decoded import DecodedSplit
from moonshine_jax.errors import UserError


def data_config(name, data_dir='', image_size=0):
  return ml_collections.ConfigDict({'name': name, 'data_dir': data_dir, 'image_size': image_size})


def paths_of(source):
  decoded = source._decoded('test')
  return decoded.images_path, decoded.labels_path


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
  monkeypatch.setattr(DecodedSplit, '_decode', lambda *args: pytest.fail('decoded a second time'))
  second = source.read('train[:7]')
  assert len(second) == 7
  np.testing.assert_array_equal(first.images, second.images)
  np.testing.assert_array_equal(first.labels, second.labels)


def test_data_prepared_anew_is_decoded_anew(tiny_images):
  """The arrays are named after the files they came from: a file that is touched counts as another."""
  source = sources.open_source(data_config('tiny_images', tiny_images))
  source.read('test')
  before = paths_of(source)
  assert all(path.exists() for path in before)
  for path in pathlib.Path(tiny_images).glob('tiny_images/1.0.0/*test.array_record*'):
    os.utime(path, (1, 1))
  assert set(before).isdisjoint(paths_of(source))
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
  path = paths_of(source)[file]
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
  assert f'{paths_of(source)[0]}: damaged (' in capsys.readouterr().err
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


def test_images_of_another_size_and_of_no_kind_are_named_and_leave_nothing(odd_images):
  source = sources.open_source(data_config('odd_images', odd_images))
  folder = pathlib.Path(odd_images) / 'odd_images' / '1.0.0'
  with pytest.raises(UserError, match=f"^{folder}: split 'test', example [0-3] cannot be read .UnidentifiedImageError"):
    source.read('test')
  with pytest.raises(UserError, match=f"^{folder}: split 'other_size', example [0-3]: an image of 9x16 pix.*16x16"):
    source.read('other_size')
  assert not list((folder / 'decoded').iterdir())


def test_what_is_transparent_is_dropped_with_a_word(odd_images, capsys):
  train = sources.open_source(data_config('odd_images', odd_images)).read('train')
  assert train.images.shape == (4, 16, 16, 3) and (train.images == (200, 100, 50)).all()
  assert 'some images are transparent in parts: this is dropped' in capsys.readouterr().err


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


def test_an_unknown_split_is_named_with_those_that_are(tiny_images):
  source = sources.open_source(data_config('tiny_images', tiny_images))
  with pytest.raises(UserError, match=r"split 'trian'.*\['test', 'train'\]|\['train', 'test'\]"):
    source.read('trian')


def test_what_is_not_prepared_says_what_to_install(tmp_path, monkeypatch):
  source = sources.open_source(data_config('cifar10', str(tmp_path)))
  assert (source.image_shape, source.num_classes) == ((32, 32, 3), 10)  # known without the data
  assert source.classes == ()  # which TFDS counts as long as it has not their names
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(
    UserError,
    match=r"cifar10 is not prepared in .*pip install 'moonshine-jax\[prepare\]'.*cifar:cifar-10-python.tar.gz$",
  ):
    source.read('train')


def test_reading_imports_no_tensorflow(tiny_images):
  program = (
    'import sys, ml_collections; from moonshine_jax.data import sources; import tests.conftest;'
    f'c = ml_collections.ConfigDict(dict(name="tiny_images", data_dir={tiny_images!r}, image_size=0));'
    'assert len(sources.open_source(c).read("test[:5]")) == 5; assert "tensorflow" not in sys.modules'
  )
  subprocess.run([sys.executable, '-c', program], check=True)
