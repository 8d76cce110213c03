"""Parquet files as `datasets` pushes them to the hub, against the arrays that were put in."""

import io
import json

import ml_collections
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from moonshine_jax.data import parquet, sources
from moonshine_jax.errors import UserError
from tests.helpers import image_files

NAMES = ['airplane', 'cat', 'dog']
IMAGES, LABELS = image_files.noise(0, 30, (8, 6, 3)), np.arange(30) % 3


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return tmp_path / 'cache'


def png(image):
  file = io.BytesIO()
  Image.fromarray(image).save(file, 'PNG')
  return file.getvalue()


FILES = [png(image) for image in IMAGES]
STRUCTS = pa.array([{'bytes': file, 'path': f'{i}.png'} for i, file in enumerate(FILES)])
HUB = {
  'image': {'_type': 'Image'},
  'label': {'names': NAMES, '_type': 'ClassLabel'},
}


def write(path, columns, features=None, rows=slice(None), **options):
  """Writes a Parquet file with the hub's metadata."""
  path.parent.mkdir(parents=True, exist_ok=True)
  table = pa.table({name: column[rows] for name, column in columns.items()})
  if features is not None:
    table = table.replace_schema_metadata({'huggingface': json.dumps({'info': {'features': features}})})
  pq.write_table(table, path, row_group_size=4, **options)
  return path


def opened(path, options='', image_size=0):
  config = {'name': f'parquet:{path}{options}', 'data_dir': '', 'image_size': image_size}
  return sources.open_source(ml_collections.ConfigDict(config))


def refused(path, options='', read='train'):
  with pytest.raises(UserError) as error:
    opened(path, options).read(read)
  assert '\n' not in str(error.value)
  return str(error.value)


@pytest.fixture
def hub(tmp_path):
  """A data set of the hub: 30 training rows in two files, and 10 of the test."""
  columns = {'image': STRUCTS, 'label': pa.array(LABELS)}
  write(tmp_path / 'hub/data/train-00000-of-00002-0123abcd.parquet', columns, HUB, slice(0, 17))
  write(tmp_path / 'hub/data/train-00001-of-00002-0123abcd.parquet', columns, HUB, slice(17, 30))
  write(tmp_path / 'hub/data/test-00000-of-00001-0123abcd.parquet', columns, HUB, slice(0, 10))
  return tmp_path / 'hub'


def test_images_of_one_size_are_those_of_the_rows_in_their_order(hub, capsys):
  source = opened(hub)
  assert (source.image_shape, source.num_classes, source.classes) == ((8, 6, 3), 3, tuple(NAMES))
  for split, examples in (('train', 30), ('test', 10)):
    read = source.read(split)
    np.testing.assert_array_equal(read.images, IMAGES[:examples])
    np.testing.assert_array_equal(read.labels, LABELS[:examples])
  assert 'unpacking 30 images of ' in capsys.readouterr().err
  np.testing.assert_array_equal(opened(hub).read('train[10:20]').images, IMAGES[10:20])
  assert capsys.readouterr().err == ''


def test_of_any_size_images_are_cropped_by_processes(hub):
  train = opened(hub, image_size=4).read('train')
  index = np.array([29, 3, 16, 17])
  images, labels = train.take(index, (0, 1))
  assert images.shape == (4, 4, 4, 3) and labels.tolist() == [2, 0, 1, 2]
  np.testing.assert_array_equal(train.take(index[::-1], (0, 1))[0], images[::-1])


@pytest.mark.parametrize(
  ('columns', 'features', 'options', 'classes'),
  [
    ({'image': STRUCTS, 'label': LABELS}, None, '', ()),
    ({'img': FILES, 'label': LABELS}, None, '', ()),
    ({'picture': STRUCTS, 'labels': LABELS.astype(np.uint8), 'more': LABELS}, None, '', ()),
    ({'id': FILES, 'image': STRUCTS, 'label': LABELS}, HUB, '', tuple(NAMES)),
    ({'image': STRUCTS, 'label': [NAMES[i] for i in LABELS]}, None, '', tuple(NAMES)),
    ({'image': STRUCTS, 'label': pa.array([NAMES[i] for i in LABELS]).dictionary_encode()}, None, '', tuple(NAMES)),
    (
      {'img': STRUCTS, 'fine_label': LABELS, 'coarse_label': LABELS * 0},
      {'fine_label': HUB['label'], 'coarse_label': {'names': ['all'], '_type': 'ClassLabel'}},
      '',
      tuple(NAMES),
    ),
    ({'img': STRUCTS, 'coarse_label': LABELS * 0, 'other': LABELS}, None, '?label=other', ()),
  ],
)
def test_columns_of_many_kinds(columns, features, options, classes, tmp_path):
  columns = {name: pa.array(column) if not isinstance(column, pa.Array) else column for name, column in columns.items()}
  source = opened(write(tmp_path / 'any.parquet', columns, features), options)
  train = source.read('train')
  np.testing.assert_array_equal(train.images, IMAGES)
  np.testing.assert_array_equal(train.labels, LABELS)
  assert source.classes == classes and source.num_classes == 3


def test_another_column_of_labels_changes_the_labels_of_images_that_were_decoded(tmp_path):
  path = write(tmp_path / 'two.parquet', {'image': STRUCTS, 'label': LABELS, 'other': (LABELS + 1) % 3})
  np.testing.assert_array_equal(opened(path).read('train').labels, LABELS)
  np.testing.assert_array_equal(opened(path, '?label=other').read('train').labels, (LABELS + 1) % 3)


@pytest.mark.parametrize(
  ('names', 'splits'),
  [
    (
      ['data/train-00000-of-00001.parquet', 'data/validation-00000-of-00001.parquet'],
      {'train': 1, 'validation': 1},
    ),
    (
      ['plain_text/train/0000.parquet', 'plain_text/train/0001.parquet', 'plain_text/test/0000.parquet'],
      {'train': 2, 'test': 1},
    ),
    (['a.parquet', 'b.parquet'], {'train': 2}),
    (['contest/latest.parquet'], {'train': 1}),
    (['train-0.parquet', 'extra-0.parquet', 'extra-1.parquet', 'test-0.parquet'], {'train': 1, 'test': 1}),
    (['train.parquet', 'val.parquet', 'test.parquet', 'README.md'], {'train': 1, 'val': 1, 'test': 1}),
  ],
)
def test_the_split_is_told_by_the_name_or_the_folder(names, splits, tmp_path):
  for name in names:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  found = parquet.find_files('here', tmp_path)
  assert {split: len(files) for split, files in found.items()} == splits
  assert all(files == sorted(files) for files in found.values())


def test_what_does_not_fit_is_one_line(hub, tmp_path):
  columns = {'image': STRUCTS, 'label': pa.array(LABELS)}
  path = tmp_path / 'one.parquet'
  for changed, features, options, message in [
    ({'label': columns['label']}, None, '', 'has the columns label: expected one of images'),
    ({'image': STRUCTS, 'class': columns['label']}, None, '', 'has the columns image, class: expected one of labels'),
    (columns, None, '?label=coarse', 'expected one of labels, as one named label, or ?label=COLUMN'),
    (columns | {'label': pa.array(LABELS / 2)}, None, '', 'the column label is of double: expected integers or texts'),
    (
      columns | {'label': pa.array([None, *LABELS[1:]])},
      None,
      '',
      '1 of 30 rows have no label: expected a label in each',
    ),
    (
      columns | {'label': pa.array(LABELS + 2**31)},
      None,
      '',
      'the column label has 2,147,483,650: expected classes from 0 to less than 1,000,000',
    ),
    (columns | {'label': pa.array(LABELS - 1)}, HUB, '', '10 of 30 examples have no label, the first of them -1'),
    (
      columns | {'label': pa.array(LABELS + 1)},
      HUB,
      '',
      '10 of 30 examples have a label of no class, the first of them 3',
    ),
    (columns, {'label': {'names': 'cat'}}, '', "names the classes 'cat': expected texts"),
    (columns, [], '', 'damaged metadata'),
    ({name: column[:0] for name, column in columns.items()}, None, '', 'has no rows'),
    (
      columns | {'image': pa.array([{'bytes': None, 'path': 'a.png'}] * 30, STRUCTS.type)},
      None,
      '',
      'has no bytes: expected',
    ),
  ]:
    write(path, changed, features)
    assert message in refused(path, options)
  assert 'has no Parquet files to train on' in refused(write(tmp_path / 'x/test/0.parquet', columns).parents[1])
  write(tmp_path / 'y/a/train/0.parquet', columns)
  write(tmp_path / 'y/b/train/0.parquet', columns)
  assert f'the split train is in {tmp_path}/y/a/train and {tmp_path}/y/b/train: expected' in refused(tmp_path / 'y')
  texts = pa.array([NAMES[i] for i in LABELS])
  write(tmp_path / 'z/train.parquet', columns | {'label': texts})
  write(tmp_path / 'z/test.parquet', columns | {'label': pa.array(['cow'] * 30)})
  assert "the label 'cow' is of no training image (the first of 30 such labels, of 30)" in refused(
    tmp_path / 'z', read='test'
  )


def test_damaged_files_and_images_are_one_line(hub, tmp_path, cache):
  path = hub / 'data/train-00001-of-00002-0123abcd.parquet'
  good = path.read_bytes()
  path.write_bytes(good[: len(good) // 2])
  assert f'{path}: cannot be read (' in refused(hub)
  damaged = bytearray(good)
  damaged[100] ^= 255  # in the first page
  path.write_bytes(damaged)
  with pytest.raises(UserError, match='cannot be read'):
    opened(hub).read('train')
  files = [*FILES[:25], b'none', FILES[26][:60], *FILES[27:]]
  path = write(tmp_path / 'x.parquet', {'image': pa.array(files), 'label': pa.array(LABELS)})
  message = refused(path)
  assert message.startswith(
    f"data set parquet:{path}, split 'train', example 25 cannot be read (UnidentifiedImageError"
  )
  assert message.endswith('(the first of 2 such images, of 30)')
  assert not list(cache.rglob('*.npy.*')) and not list(cache.rglob('*.tmp'))


def test_a_damaged_unpacked_file_is_unpacked_again(hub, cache):
  opened(hub).read('test')
  (path,) = cache.rglob('test-*.images.bin')
  unpacked = path.read_bytes()
  path.write_bytes(unpacked[:-1])
  for images in cache.rglob('test-*.npy'):
    if images.name.count('.') > 2:
      images.unlink()
  np.testing.assert_array_equal(opened(hub).read('test').images, IMAGES[:10])
  assert path.read_bytes() == unpacked


def test_an_unpacked_file_that_went_away_is_one_line(hub, cache):
  examples = opened(hub).encoded('test')
  (path,) = cache.rglob('test-*.images.bin')
  path.unlink()
  with pytest.raises(UserError, match=r"split 'test', example 3 cannot be read \(FileNotFoundError"):
    examples.reader([3, 4])()


def test_the_first_of_several_files_may_have_no_rows(hub):
  columns = {'image': STRUCTS, 'label': pa.array(LABELS)}
  write(hub / 'data/train-00000-of-00002-0123abcd.parquet', columns, HUB, slice(0, 0))
  np.testing.assert_array_equal(opened(hub).read('train').images, IMAGES[17:30])


def test_without_pyarrow_it_says_what_to_install(hub, monkeypatch):
  monkeypatch.setattr(parquet.importlib.util, 'find_spec', lambda name: None)
  assert "needs pyarrow: pip install 'moonshine-jax[parquet]'" in refused(hub)
