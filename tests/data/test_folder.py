"""Folders of image files, as people have them, and as they should not be."""

import os
import shutil

import ml_collections
import numpy as np
import pytest
from PIL import Image

from moonshine_jax.data import folder as folder_lib
from moonshine_jax.data import sources
from moonshine_jax.data.feeds import StreamFeed
from moonshine_jax.errors import UserError
from tests.helpers import image_files

CLASSES = 'ant', 'bee', 'Cow'  # sorted: Cow, ant, bee
IMAGES, LABELS = image_files.noise(0, 30, (8, 6, 3)), np.arange(30) % 3


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return tmp_path / 'cache'


@pytest.fixture
def insects(tmp_path):
  """A folder of 30 training and 6 test images."""
  image_files.write_folder(tmp_path / 'insects/train', IMAGES, LABELS, CLASSES)
  image_files.write_folder(tmp_path / 'insects/test', IMAGES[::5], LABELS[::5], CLASSES)
  return tmp_path / 'insects'


def opened(path, options='', image_size=0):
  config = {'name': f'folder:{path}{options}', 'data_dir': '', 'image_size': image_size}
  return sources.open_source(ml_collections.ConfigDict(config))


def refused(path, options='', image_size=0, read='train'):
  """The error of a data set."""
  with pytest.raises(UserError) as error:
    opened(path, options, image_size).read(read)
  assert '\n' not in str(error.value) and 'expected' in str(error.value)
  return str(error.value)


def in_order(source, split, images, labels):
  """Images in the order of a split, and the labels of the classes sorted by name; each is named after its number."""
  paths = source.encoded(split).paths
  order = [int(os.path.basename(path)[:-4]) for path in paths]
  assert [os.path.dirname(path) for path in paths] == [CLASSES[labels[i]] for i in order]
  return images[order], [sorted(CLASSES).index(CLASSES[labels[i]]) for i in order]


def test_images_of_one_size_are_those_of_the_files(insects):
  source = opened(insects)
  assert (source.image_shape, source.num_classes, source.classes) == ((8, 6, 3), 3, ('Cow', 'ant', 'bee'))
  for split, images, labels in (('train', IMAGES, LABELS), ('test', IMAGES[::5], LABELS[::5])):
    read = source.read(split)
    expected, expected_labels = in_order(source, split, images, labels)
    assert len(read) == len(images)
    np.testing.assert_array_equal(read.images, expected)
    np.testing.assert_array_equal(read.labels, expected_labels)
  np.testing.assert_array_equal(source.read('train[10:20]').images, in_order(source, 'train', IMAGES, LABELS)[0][10:20])


def test_images_are_decoded_once_and_again_where_a_file_has_changed(insects, capsys):
  first = opened(insects).read('train')
  assert 'decoding 30 images of ' in capsys.readouterr().err
  np.testing.assert_array_equal(opened(insects).read('train').images, first.images)
  assert capsys.readouterr().err == ''
  Image.fromarray(IMAGES[1]).save(insects / 'train/Cow/00002.png')
  changed = np.any(opened(insects).read('train').images != first.images, axis=(1, 2, 3))
  assert np.flatnonzero(changed).tolist() == [opened(insects).encoded('train').paths.index('Cow/00002.png')]


def test_a_class_that_is_new_changes_the_labels_of_images_that_were_decoded(insects):
  before = opened(insects).read('test')
  image_files.write_folder(insects / 'train', IMAGES[:1], [0], ['Bug'])
  after = opened(insects).read('test')
  np.testing.assert_array_equal(after.images, before.images)
  np.testing.assert_array_equal(after.labels, before.labels + 1)


def test_the_files_are_those_of_image_folder(tmp_path):
  """Of torchvision: those of os.walk, links followed; but for what is hidden."""
  for name in ['b/2.png', 'b/10.PNG', 'b/1/x.jpeg', 'b-1/x.webp', 'x.bmp', 'ä.png', 'b/notes.txt', '.hidden.png']:
    path = tmp_path / 'train/one' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not name.endswith('txt'):
      Image.fromarray(IMAGES[0]).save(path)
  (tmp_path / 'train/one/c').symlink_to(tmp_path / 'train/one/b')
  (tmp_path / 'train/.ipynb_checkpoints').mkdir()
  expected = {
    os.path.relpath(os.path.join(root, name), tmp_path / 'train')
    for root, _, names in os.walk(tmp_path / 'train/one', followlinks=True)
    for name in names
    if name != 'notes.txt' and not name.startswith('.')
  }
  paths = opened(tmp_path).encoded('train').paths
  assert set(paths) == expected and len(paths) == len(expected) == 9


def test_the_order_follows_from_the_names_and_mixes_the_classes(tmp_path):
  paths = [f'{name}/{i}.png' for name in 'ab' for i in range(500)]
  labels = [0] * 500 + [1] * 500
  examples = folder_lib.FolderExamples.shuffled(tmp_path, paths, labels)
  again = folder_lib.FolderExamples.shuffled(tmp_path / 'elsewhere', paths[::-1], labels[::-1])
  assert examples.paths == again.paths and sorted(examples.paths) == sorted(paths)
  assert [path[0] for path in examples.paths] == ['ab'[label] for label in examples.labels]
  assert 35 < examples.labels[:100].sum() < 65


def test_of_any_size_images_are_cropped_by_processes(tmp_path):
  for i, label in enumerate(LABELS):
    path = tmp_path / 'train' / CLASSES[label] / f'{i}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (20 + i, 30 - i % 7), (8 * i, 0, 100)).save(path, quality=95)
  shutil.copytree(tmp_path / 'train', tmp_path / 'val')
  source = opened(tmp_path, image_size=10)
  train = source.read('train')
  assert source.image_shape == (10, 10, 3) and len(train) == 30 and len(source.read('test[:50%]')) == 15
  images, labels = train.take(np.arange(30), (1, 2))
  assert (images.min((1, 2)) == images.max((1, 2))).all()  # each of one colour
  paths = source.encoded('train').paths
  numbers = [int(os.path.basename(path)[:-4]) for path in paths]
  assert np.abs(images[:, 0, 0, 0].astype(int) - 8 * np.array(numbers)).max() <= 3
  assert [source.classes[label] for label in labels] == [os.path.dirname(path) for path in paths]
  part, _ = source.read('train[20:]').take(np.array([0, 9]))
  np.testing.assert_array_equal(part, train.take(np.array([20, 29]))[0])
  feed = StreamFeed(train, FakeReplicas())
  first, again = (next(feed.epoch(0, 3, 8)) for _ in range(2))
  np.testing.assert_array_equal(first['image'], again['image'])
  (tmp_path / 'train/ant/0.jpg').write_bytes(b'none')
  with pytest.raises(
    UserError, match=f'^{tmp_path}/train/ant/0.jpg cannot be read .*: expected an image: mend the fil'
  ):
    train.take(np.arange(30))


class FakeReplicas:
  """One process, whose devices are the host."""

  replicate = staticmethod(lambda tree: tree)
  process_share = staticmethod(lambda batch, axis: batch)
  shard = staticmethod(lambda batch, axis: batch)


def test_a_share_of_each_class_is_held_out_by_the_names_alone(insects, tmp_path):
  source = opened(insects / 'train', '?test=20%')
  train, test = source.read('train'), source.read('test')
  assert np.bincount(train.labels).tolist() == [8, 8, 8] and np.bincount(test.labels).tolist() == [2, 2, 2]
  both = {image.tobytes() for image in (*train.images, *test.images)}
  assert both == {image.tobytes() for image in IMAGES}
  moved = shutil.copytree(insects / 'train', tmp_path / 'elsewhere')
  Image.fromarray(IMAGES[0]).save(moved / 'ant/new.png')
  again = opened(moved, '?test=20%').read('test')
  assert len({image.tobytes() for image in test.images} & {image.tobytes() for image in again.images}) >= 5


@pytest.mark.parametrize(('share', 'counts'), [(0.1, [0, 1, 1, 10]), (0.5, [0, 1, 2, 50]), (0.99, [0, 1, 4, 99])])
def test_each_class_keeps_one_image_and_gives_one(share, counts):
  labels = np.repeat([0, 1, 2, 3], [1, 2, 5, 100])
  chosen = folder_lib.held_out(labels, share)
  assert [int(chosen[labels == label].sum()) for label in range(4)] == counts


def test_images_are_grey_where_all_are(tmp_path, capsys):
  image_files.write_folder(tmp_path / 'train', IMAGES[..., :1], LABELS, CLASSES)
  assert opened(tmp_path).read('train').images.shape == (30, 8, 6, 1)
  Image.fromarray(IMAGES[0]).save(tmp_path / 'train/ant/00000.png')
  assert opened(tmp_path).image_shape == (8, 6, 3)


def test_layouts_that_are_none(insects, tmp_path):
  (tmp_path / 'file').write_text('')
  (tmp_path / 'none/train').mkdir(parents=True)
  assert f'no {tmp_path}/nowhere: expected a path' in refused(tmp_path / 'nowhere')
  assert f'{tmp_path}/file is no folder' in refused(tmp_path / 'file')
  assert f'{insects}/train has no folder train' in refused(insects / 'train')
  assert f'{tmp_path}/none/train has no folders of classes' in refused(tmp_path / 'none')
  assert 'expected no ?test=, or the path of that folder' in refused(insects, '?test=10%')
  for share in ('10', '0%', '0.1', '100%', 'x%', '-5%'):
    assert f'?test={share}: expected a share above 0% and below 100%' in refused(insects / 'train', f'?test={share}')
  assert "no option 'tset': expected ?test=" in refused(insects / 'train', '?tset=10%')
  assert "has no split 'validation'" in refused(insects, read='validation')
  for name in CLASSES:
    (tmp_path / 'hollow/train' / name).mkdir(parents=True)
  assert 'hollow/train has no images in folders of classes' in refused(tmp_path / 'hollow')


def test_empty_classes_unknown_ones_and_loops_are_named_with_their_number(insects, capsys):
  for name in ('dog', 'elk'):
    (insects / 'train' / name).mkdir()
  assert f'{insects}/train/dog has no images (the first of 2 such folders, of 5 classes): exp' in refused(insects)
  for name in ('dog', 'elk'):
    (insects / 'train' / name).rmdir()
  for name in ('ant', 'bee'):
    (insects / 'train' / name / 'again').symlink_to(insects / 'train')
  assert f'{insects}/train/ant/again is a link to a folder that it is in (the first of 2 such' in refused(insects)


def test_a_class_of_the_test_alone_is_refused(insects):
  (insects / 'test/dog').mkdir()
  assert f'{insects}/test/dog is of no class that {insects}/train has' in refused(insects, read='test')


def test_images_beside_the_classes_and_classes_without_test_images_are_a_word(insects, capsys):
  for name in ('b.png', 'a.png'):
    Image.fromarray(IMAGES[0]).save(insects / 'train' / name)
  shutil.rmtree(insects / 'test/ant')
  (insects / 'test/ant').mkdir()
  source = opened(insects)
  assert len(source.read('train')) == 30 and len(source.read('test')) == 4
  lines = capsys.readouterr().err
  assert f'{insects}/train/a.png lies in no class (the first of 2 such images): they are left out' in lines
  assert f'{insects}/test/ant has no images (the first of 1 such folders, of 3 classes)' in lines


def test_damaged_files_are_one_line_with_the_first_and_their_number(insects, cache):
  good = (insects / 'train/ant/00000.png').read_bytes()
  (insects / 'train/ant/00000.png').write_bytes(good[:80])
  (insects / 'train/bee/00001.png').write_bytes(b'')
  os.remove(insects / 'train/bee/00004.png')
  (insects / 'train/bee/00004.png').symlink_to('nowhere.png')
  Image.fromarray(IMAGES[0][:, :5]).save(insects / 'train/bee/00007.png')
  message = refused(insects)
  assert 'an image of 8x5 pixels, where ' in message and '(1 of 30 that were looked at are of another size)' in message
  os.remove(insects / 'train/bee/00007.png')
  message = refused(insects)
  assert 'png cannot be read' in message and message.split(' cannot')[0] in [
    f'{insects}/train/{name}' for name in ('ant/00000.png', 'bee/00001.png', 'bee/00004.png')
  ]
  assert message.endswith('expected an image: mend the file or remove it (the first of 3 such images, of 29)')
  assert not list(cache.rglob('*.npy')) and not list(cache.rglob('*.tmp'))


def test_of_many_images_some_are_looked_at_and_all_are_checked(insects, monkeypatch):
  monkeypatch.setattr(folder_lib, 'LOOKED_AT', 2)
  *_, first, _, second = opened(insects).encoded('train').paths
  for path in (first, second):
    Image.fromarray(IMAGES[0][:, :5]).save(insects / 'train' / path)
  message = refused(insects)
  assert message.startswith(f'{insects}/train/{first}: an image of 8x5 pixels: expected 8x6')
  assert message.endswith('(the first of 2 such images, of 30)')


def test_only_images_are_opened(insects):
  """Not pipes, on which a program would wait; nor what Pillow would start a program for."""
  os.mkfifo(insects / 'train/ant/pipe.png')
  assert len(opened(insects).read('train')) == 30
  (insects / 'train/ant/00000.png').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 8\n%%EndComments\n')
  assert refused(insects).startswith(f'{insects}/train/ant/00000.png cannot be read (UnidentifiedImageError')


def test_a_name_that_is_no_utf_8_is_read(insects):
  path = os.fsencode(insects) + b'/train/ant/\xff.png'
  shutil.copy(os.fsencode(insects / 'train/ant/00000.png'), path)
  assert len(opened(insects).read('train')) == 31
