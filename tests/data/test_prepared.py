"""Folders from strangers: whatever their descriptions name, no module is imported and no other folder is touched."""

import json
import os
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from moonshine_jax.data import prepared
from moonshine_jax.data.tfds import TfdsSource
from moonshine_jax.errors import UserError

OURS = 'tensorflow_datasets.core.features.'
EVIL = {'pythonClassName': 'evil_features.Feature', 'jsonFeature': {'json': '{}'}}


@pytest.fixture
def received(tiny_images, tmp_path, monkeypatch):
  """A prepared data set whose name no code knows, and a module on Python's path that must not be imported."""
  folder = tmp_path / 'data' / 'received_images' / '1.0.0'
  shutil.copytree(f'{tiny_images}/tiny_images/1.0.0', folder, ignore=shutil.ignore_patterns('decoded'))
  (tmp_path / 'path').mkdir()
  (tmp_path / 'path' / 'evil_features.py').write_text('raise SystemExit("imported")')
  monkeypatch.syspath_prepend(tmp_path / 'path')
  yield folder
  assert 'evil_features' not in sys.modules


def edit(path, change):
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


def opened(received):
  return TfdsSource('received_images', str(received.parents[1]), 0)


def in_json(features):
  """Features as the older form has them: in a string of JSON."""
  return {'pythonClassName': OURS + 'features_dict.FeaturesDict', 'jsonFeature': {'json': json.dumps(features)}}


@pytest.mark.parametrize(
  'evil',
  [
    EVIL,
    in_json({'x': {'type': 'evil_features.Feature', 'content': {}}}),
    {'python_class_name': 'evil_features.Feature', 'jsonFeature': {'json': '{}'}},
    in_json({'x': EVIL}),
    in_json({'x': in_json({'x': {'type': 'evil_features.Feature', 'content': {}}})}),
    {'pythonClassName': OURS + 'sequence_feature.Sequence', 'sequence': {'feature': EVIL}},
    EVIL | {'pythonClassName': 'evil_features.' + OURS + 'image_feature.Image'},
    EVIL | {'pythonClassName': OURS + 'evil_features.x.Image'},
    EVIL | {'pythonClassName': 'tensorflow_datasets.scripts.cli.main.Image'},
    EVIL | {'pythonClassName': OURS + '/tmp/evil.Image'},
  ],
)
def test_features_of_other_modules_are_refused_wherever_they_stand(received, evil):
  edit(received / 'features.json', lambda it: it['featuresDict']['features'].update(more=evil))
  with pytest.raises(
    UserError, match="^config.data.name='received_images': its files name the feature '.*expected featu"
  ):
    opened(received)
  with pytest.raises(UserError, match='expected features of TFDS alone'):
    prepared.open_folder(str(received))


@pytest.mark.parametrize(
  ('feature', 'change', 'message'),
  [
    ('label', {'numClasses': 0}, 'expected an image classification data set with image and label'),
    ('image', {'shape': {'dimensions': [2, 8, 8, 3]}}, r'images are uint8 \(2, 8, 8, 3\): expected uint8 of one size'),
    ('image', {'dtype': 'uint16'}, r'images are uint16 \(8, 8, 3\): expected uint8'),
    ('image', {'shape': {'dimensions': [-1, 8, 3]}}, r'images are uint8 \(None, 8, 3\): expected uint8'),
  ],
)
def test_features_that_are_not_of_images_and_classes(received, feature, change, message):
  field = {'label': 'classLabel', 'image': 'image'}[feature]
  edit(received / 'features.json', lambda it: it['featuresDict']['features'][feature][field].update(change))
  with pytest.raises(UserError, match=f"^config.data.name='received_images': {message}"):
    opened(received)


def test_features_in_the_description_of_the_data_set_are_no_other_way_in(received):
  features = {'pythonClassName': OURS + 'features_dict.FeaturesDict', 'featuresDict': {'features': {'x': EVIL}}}
  edit(received / 'dataset_info.json', lambda info: info.update(features=features))
  with pytest.raises(UserError, match='expected features of TFDS alone'):
    opened(received)


def test_the_module_that_prepared_the_data_is_not_imported(received):
  edit(received / 'dataset_info.json', lambda info: info.update(moduleName='evil_features'))
  assert len(opened(received).read('test')) == 13


@pytest.mark.parametrize('form', ['../../elsewhere/{SPLIT}', '/tmp/{SPLIT}-{SHARD_X_OF_Y}'])
def test_files_elsewhere_are_refused(received, form):
  edit(received / 'dataset_info.json', lambda info: info['splits'][0].update(filepathTemplate=form))
  with pytest.raises(UserError, match=f'^config.data.name=.*: leads to .*: expected a file in {received}'):
    opened(received)


def test_a_split_whose_name_is_a_path_is_refused(received):
  edit(
    received / 'dataset_info.json',
    lambda info: info['splits'][0].update(name='../x', filepathTemplate='{SPLIT}-{SHARD_INDEX}'),
  )
  with pytest.raises(UserError, match='expected a file in'):
    opened(received)


def test_a_configuration_elsewhere_is_refused(received, tmp_path):
  shutil.copytree(received, tmp_path / 'elsewhere' / '1.0.0')
  shutil.rmtree(received)
  (received.parent / '.config').mkdir()
  (received.parent / '.config' / 'metadata.json').write_text('{"default_config_name": "../../elsewhere"}')
  with pytest.raises(UserError, match='elsewhere.*: expected a folder in'):
    opened(received)


def test_links_that_leave_the_folder_are_refused(received, tmp_path):
  elsewhere = tmp_path / 'elsewhere'
  elsewhere.mkdir()
  (received / 'decoded').symlink_to(elsewhere)
  with pytest.raises(UserError, match=f'decoded/.*: leads to {elsewhere}/.*: expected a file in'):
    opened(received).read('test')
  assert not list(elsewhere.iterdir())
  (received / 'decoded').unlink()

  (shard,) = received.glob('*train.array_record*')
  shutil.move(shard, elsewhere / 'shard')
  shard.symlink_to(elsewhere / 'shard')
  with pytest.raises(UserError, match=f'{shard}: leads to {elsewhere}/shard: expected a file in {received}'):
    opened(received)


def test_a_link_to_the_whole_data_set_is_none_that_leaves_it(received, tmp_path):
  os.symlink(received.parent, tmp_path / 'linked_images')
  assert len(TfdsSource('linked_images', str(tmp_path), 0).read('test')) == 13


def test_arrays_that_others_have_left_are_checked(received, capsys):
  """The checksum is right, the shape is not."""
  source = opened(received)
  decoded = source._decoded('test')
  images, labels = decoded.images_path, decoded.labels_path
  images.parent.mkdir()
  for wrong in (np.zeros((13, 4, 4, 3), np.uint8), np.zeros((13, 8, 8, 3), np.int8)):
    np.save(images, wrong)
    np.savez(labels, labels=np.zeros(13, np.int32), images_crc32=zlib.crc32(wrong))
    assert source.read('test').images.shape == (13, 8, 8, 3)
    assert 'damaged (' in capsys.readouterr().err
  np.savez(labels, labels=np.full(13, 3, np.int32), images_crc32=zlib.crc32(np.load(images)))
  source.read('test')
  assert 'have a label of no class, the first of them 3: expected labels from 0 to 2' in capsys.readouterr().err
  assert Path(images).exists()
