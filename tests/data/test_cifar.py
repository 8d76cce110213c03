"""Made-up archives in all four published versions, against the arrays that were put in."""

import hashlib
import os
import shutil

import ml_collections
import numpy as np
import pytest

from moonshine_jax.data import cifar, sources
from moonshine_jax.errors import UserError
from tests.helpers import image_files

TRAIN, TEST = 100, 20  # a tenth of a percent of the examples, as many of each class
IMAGES = image_files.noise(0, TRAIN + TEST)
FINE = np.r_[np.arange(TRAIN), np.arange(TEST)]


def write_version(layout, folder):
  """Writes an unpacked version; returns the labels by their kind."""
  labels = {kind: FINE % number for kind, number in layout.classes.items()}
  parts = np.split(np.arange(TRAIN), len(layout.train))
  for name, part in [*zip(layout.train, parts, strict=True), (layout.test, np.arange(TRAIN, TRAIN + TEST))]:
    if layout.binary:  # CIFAR-100 has the coarse label first
      image_files.write_binary(folder / name, IMAGES[part], *(labels[kind][part] for kind in reversed(labels)))
    else:
      named = {f'{kind}_labels' if kind else 'labels': values[part] for kind, values in labels.items()}
      image_files.write_batch(folder / name, IMAGES[part], **named)
  for kind, number in layout.classes.items():
    names = [f'{kind}{i}' for i in range(number)]
    if layout.binary:
      (folder / layout.meta.format(kind)).write_text('\n'.join(names) + '\n\n')
  if not layout.binary:
    named = {f'{kind}_label_names' if kind else 'label_names' for kind in layout.classes}
    image_files.write_pickle(
      folder / layout.meta,
      {
        name: [f'{name[: -len("_label_names")]}{i}' for i in range(layout.classes.get(name.split('_')[0], 10))]
        for name in named
      },
    )
  return labels


@pytest.fixture(params=cifar.LAYOUTS, ids=lambda layout: layout.archive)
def version(request, tmp_path, monkeypatch):
  """A version, unpacked and packed in one folder, of which the MD5 are those that were published."""
  layout = request.param._replace(examples=(TRAIN, TEST))
  if 'fine' in layout.classes:
    layout = layout._replace(classes={'fine': 20, 'coarse': 10})
  folder = tmp_path / 'unpacked' / layout.folder
  labels = write_version(layout, folder)
  archive = image_files.pack(folder, tmp_path / layout.archive)
  published = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
  known = {f'{layout.folder}/{name}': md5 for name, md5 in published.items() if not layout.binary}
  md5 = hashlib.md5(archive.read_bytes()).hexdigest()
  monkeypatch.setattr(cifar, 'PUBLISHED_MD5', {**cifar.PUBLISHED_MD5, **known, layout.archive: md5})
  monkeypatch.setattr(cifar, 'LAYOUTS', [layout])
  return layout, folder, archive, labels


def opened(name):
  return sources.open_source(ml_collections.ConfigDict({'name': name, 'data_dir': '', 'image_size': 0}))


def test_packed_or_unpacked_it_has_the_images_and_labels_that_were_put_in(version):
  layout, folder, archive, labels = version
  for path in (archive, archive.parent, folder, folder.parent):
    for kind, number in layout.classes.items():
      source = opened(f'cifar:{path}' + (f'?label={kind}' if kind == 'coarse' else ''))
      assert (source.image_shape, source.num_classes) == ((32, 32, 3), number)
      assert source.classes == tuple(f'{kind}{i}' for i in range(number))
      train, test = source.read('train'), source.read('test')
      np.testing.assert_array_equal(np.r_[train.images, test.images], IMAGES)
      np.testing.assert_array_equal(np.r_[train.labels, test.labels], labels[kind])
      assert train.labels.dtype == np.int32 and train.images.flags.c_contiguous


def test_what_was_not_published_is_refused(version, monkeypatch):
  layout, folder, archive, _ = version
  data = bytearray(archive.read_bytes())
  data[len(data) // 2] ^= 1
  archive.write_bytes(data)
  with pytest.raises(UserError, match=rf'{archive} has the MD5 [0-9a-f]{{32}}, as none that was published: expected'):
    opened(f'cifar:{archive}')
  path = folder / layout.test
  batch = bytearray(path.read_bytes())
  if layout.binary:
    path.write_bytes(batch[:-1])
    with pytest.raises(
      UserError, match=rf"^config.data.name='cifar:{folder}': {layout.test} has \d+ bytes: expected a"
    ):
      opened(f'cifar:{folder}')
    kinds = len(layout.classes)
    batch[kinds - 1] += 1  # one fine label
    path.write_bytes(batch)
    with pytest.raises(UserError, match='the test split has . examples of class 0: expected . of each of'):
      opened(f'cifar:{folder}')
  else:
    batch[len(batch) // 2] ^= 1
    path.write_bytes(batch)
    with pytest.raises(UserError, match=rf'{path} has the MD5 .*: expected .*, as it was published: download it anew'):
      opened(f'cifar:{folder}')


def test_a_hostile_batch_runs_nothing(version, tmp_path, monkeypatch):
  """Were its MD5 the published one."""
  layout, folder, _, _ = version
  if layout.binary:
    pytest.skip('no pickle')
  ran = tmp_path / 'ran'
  hostile = b'cos\nsystem\n(S"touch ' + os.fsencode(ran) + b'"\ntR.'
  (folder / layout.test).write_bytes(hostile)
  archive = image_files.pack(folder, tmp_path / 'hostile.tar.gz')
  md5 = {
    f'{layout.folder}/{layout.test}': hashlib.md5(hostile).hexdigest(),
    layout.archive: hashlib.md5(archive.read_bytes()).hexdigest(),
  }
  monkeypatch.setattr(cifar, 'PUBLISHED_MD5', {**cifar.PUBLISHED_MD5, **md5})
  for path in (folder, archive):
    with pytest.raises(UserError, match=f"{layout.test}: its pickle names 'os.system', which is not run"):
      opened(f'cifar:{path}')
  assert not ran.exists()


def test_links_in_an_archive_lead_nowhere(version, tmp_path, monkeypatch):
  """Were its MD5 the published one."""
  layout, folder, _, _ = version
  outside = shutil.move(folder / layout.test, tmp_path / 'outside')
  (folder / layout.test).symlink_to(outside)
  archive = image_files.pack(folder, tmp_path / 'links.tar.gz')
  md5 = {layout.archive: hashlib.md5(archive.read_bytes()).hexdigest()}
  monkeypatch.setattr(cifar, 'PUBLISHED_MD5', {**cifar.PUBLISHED_MD5, **md5})
  with pytest.raises(UserError, match=f'has no {layout.test}: expected {layout.archive} as it was published'):
    opened(f'cifar:{archive}')


def test_what_is_no_cifar_is_one_line(version, tmp_path):
  layout, folder, archive, _ = version
  (tmp_path / 'empty').mkdir()
  for name, message in [
    (f'cifar:{tmp_path}/no', f'no {tmp_path}/no: expected a path from here'),
    (f'cifar:{tmp_path}/empty', 'holds no version of CIFAR: expected the path of one of cifar-'),
    (f'cifar:{archive}?label=superclass', "no labels 'superclass': expected "),
    (f'cifar:{archive}?labels=fine', "no option 'labels': expected .label="),
  ]:
    with pytest.raises(UserError, match=f'^config.data.name={name!r}: {message}'.replace('?', r'\?')):
      opened(name)
  shutil.copytree(folder, tmp_path / layout.folder)
  with pytest.raises(UserError, match=f'holds {tmp_path} and {tmp_path}/{layout.folder}: expected the path of one'):
    for name in os.listdir(folder):
      shutil.copy(folder / name, tmp_path / name)
    opened(f'cifar:{tmp_path}')


def test_the_published_checksums_are_of_files_that_are_read():
  names = {layout.archive for layout in cifar.LAYOUTS}
  for layout in cifar.LAYOUTS:
    if not layout.binary:
      names |= {f'{layout.folder}/{name}' for name in cifar._names(layout)}
  assert cifar.PUBLISHED_MD5.keys() == names
