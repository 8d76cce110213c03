import pickle

import ml_collections
import numpy as np
import pytest

from moonshine_jax.data import sources
from moonshine_jax.errors import UserError
from tests.helpers import image_files

IMAGES, LABELS = image_files.noise(0, 9, (8, 8, 3)), np.arange(9) % 3
SPLITS = {'train_images': IMAGES, 'train_labels': LABELS, 'test_images': IMAGES[:4], 'test_labels': LABELS[:4]}


def opened(path, image_size=0):
  config = {'name': f'npz:{path.name}', 'data_dir': str(path.parent), 'image_size': image_size}
  return sources.open_source(ml_collections.ConfigDict(config))


@pytest.mark.parametrize(
  'arrays',
  [
    SPLITS,
    {'x_train': IMAGES, 'y_train': LABELS, 'x_test': IMAGES[:4], 'y_test': LABELS[:4]},
    {'x_train': IMAGES, 'y_train': LABELS[:, None].astype(np.uint8), 'x_test': IMAGES[:4], 'y_test': LABELS[:4]},
    {'train_images': IMAGES, 'train_labels': LABELS, 'val_images': IMAGES[:4], 'val_labels': LABELS[:4]},
    SPLITS | {'val_images': IMAGES, 'val_labels': LABELS, 'more': np.zeros(3)},
  ],
  ids=['ours', 'Keras', 'a column of labels', 'val for test', 'MedMNIST'],
)
@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_arrays_of_every_name(arrays, save, tmp_path):
  save(tmp_path / 'data.npz', **arrays)
  source = opened(tmp_path / 'data.npz')
  assert (source.image_shape, source.num_classes, source.classes) == ((8, 8, 3), 3, ())
  for split, examples in (('train', 9), ('test', 4)):
    read = source.read(split)
    np.testing.assert_array_equal(read.images, IMAGES[:examples])
    np.testing.assert_array_equal(read.labels, LABELS[:examples])
  assert len(source.read('train[:50%]')) == 4


def test_grey_images_need_no_axis_of_channels(tmp_path):
  np.savez(tmp_path / 'mnist.npz', x_train=IMAGES[..., 0], y_train=LABELS, x_test=IMAGES[:2, :, :, 0], y_test=[0, 1])
  assert opened(tmp_path / 'mnist.npz').read('test').images.shape == (2, 8, 8, 1)


@pytest.mark.parametrize(
  ('arrays', 'message'),
  [
    ({'images': IMAGES}, "has the arrays ['images']: expected train_images, train_labels, test_images and test_labels"),
    (SPLITS | {'train_images': IMAGES / 255}, "split 'train': images are float64 from 0 to 1: expected uint8"),
    (SPLITS | {'train_labels': LABELS[:-1]}, "split 'train': labels have the shape (8,): expected (9,)"),
    (
      SPLITS | {'test_images': IMAGES[:4, 1:]},
      'the images of train are (8, 8, 3) and test are (7, 8, 3): expected one',
    ),
    (
      SPLITS | {'train_images': np.array([*IMAGES, None], object)[:-1]},
      'cannot be read (Object arrays cannot be loaded',
    ),
  ],
)
def test_other_arrays_are_one_line(arrays, message, tmp_path):
  np.savez(tmp_path / 'data.npz', **arrays)
  with pytest.raises(UserError) as error:
    opened(tmp_path / 'data.npz')
  assert str(error.value).startswith("config.data.name='npz:data.npz'") and message in str(error.value)


class Hostile:
  def __reduce__(self):
    return exec, ('raise SystemExit("this was run")',)


@pytest.mark.parametrize(
  'content',
  [b'', b'no archive', b'PK\x03\x04' + bytes(40), pickle.dumps(Hostile()), np.lib.format.magic(1, 0) + b'\xff'],
)
def test_other_files_are_one_line(content, tmp_path):
  (tmp_path / 'data.npz').write_bytes(content)
  with pytest.raises(UserError, match="^config.data.name='npz:data.npz': cannot be read .*: expected a file of arrays"):
    opened(tmp_path / 'data.npz')


def test_objects_are_never_unpickled(tmp_path):
  np.savez(tmp_path / 'data.npz', **(SPLITS | {'train_labels': np.array([Hostile()] * 9, object)}))
  with pytest.raises(UserError, match='cannot be read .Object arrays cannot be loaded'):
    opened(tmp_path / 'data.npz')


def test_one_array_a_folder_and_crops_are_one_line(tmp_path):
  np.save(tmp_path / 'data.npy', IMAGES)
  for path, message in ((tmp_path / 'data.npy', 'one array, as np.save writes it'), (tmp_path, 'no plain file')):
    with pytest.raises(UserError, match=f'cannot be read .{message}'):
      opened(path)
  with pytest.raises(UserError, match='config.data.image_size=12: expected 0 for npz:data.npy'):
    opened(tmp_path / 'data.npy', image_size=12)
