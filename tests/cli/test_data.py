"""`moonshine data`: what it prints and draws of a folder, and of one with damaged images."""

import os

import numpy as np
import pytest
from PIL import Image

from moonshine_jax.cli import app
from tests.helpers import image_files

IMAGES, LABELS = image_files.noise(0, 30, (24, 24, 3)), np.arange(30) % 3 % 2


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.chdir(tmp_path)
  image_files.write_folder('pets/train', IMAGES, LABELS, ['cat', 'd\x1b[31m\nog'])
  image_files.write_folder('pets/val', IMAGES[:6], LABELS[:6], ['cat', 'd\x1b[31m\nog'])
  return tmp_path


def ran(capsys, *arguments):
  """The exit status, and what was printed."""
  status = 0
  try:
    app.run('data', list(arguments))
  except SystemExit as error:
    status = error.code
  return status, *capsys.readouterr()


def test_what_a_folder_holds(folder, capsys):
  status, out, _ = ran(capsys, 'folder:pets')
  assert status == 0
  assert out.splitlines()[:3] == [
    'folder:pets: 2 classes, images of 24x24 pixels and 3 channels',
    'train: 30 images, 0 damaged',
    'test: 6 images, 0 damaged',
  ]
  rows = [line.split() for line in out.splitlines()[5:7]]
  assert rows == [['0', 'cat', '20', '4'], ['1', 'd\\x1b[31m\\nog', '10', '2']]
  mean = ', '.join(f'{value:.2f}' for value in IMAGES.mean((0, 1, 2)))
  assert f'mean of each channel: {mean} (from 0 to 255)' in out
  with Image.open('contact_sheet.png') as sheet:
    assert sheet.format == 'PNG' and sheet.width == 8 * 100 and sheet.height == 4 * (96 + 20)


@pytest.mark.parametrize('flags', [(), ('--image_size=16',)], ids=['one size', 'any size'])
def test_damaged_images_are_listed_and_the_exit_status_is_2(folder, flags, capsys):
  for number in (0, 3):
    (folder / f'pets/train/cat/0000{number}.png').write_bytes(b'none')
  os.chmod('pets/train', 0o755)
  status, out, err = ran(capsys, 'folder:pets', '--out=sheet.png', *flags)
  assert status == 2 and err.endswith('error: folder:pets: 2 damaged images: expected none\n')
  assert 'train: 30 images, 2 damaged\n' in out and 'test: 6 images, 0 damaged\n' in out
  for number in (0, 3):
    assert f'  pets/train/cat/0000{number}.png cannot be read (UnidentifiedImageError' in out
  assert ['0', 'cat', '20', '4'] in [line.split() for line in out.splitlines()]
  assert not os.path.exists('sheet.png')


def test_of_many_images_of_any_size_some_are_decoded(folder, capsys):
  status, out, _ = ran(capsys, 'folder:pets', '--image_size=16', '--examples=10')
  assert status == 0 and 'train: 10 images (of 30), 0 damaged' in out


def test_what_cannot_be_had_is_one_line(folder, capsys):
  for arguments, message in [
    (('folder:dogs',), "error: config.data.name='folder:dogs': no "),
    (('folder:pets', '--pad=-1'), 'error: flag --pad=-1'),
    (('folder:pets', '--out=no/sheet.png'), 'error: no/sheet.png: cannot be written'),
    ((), 'error: the argument NAME is missing'),
  ]:
    status, _, err = ran(capsys, *arguments)
    assert status == 2 and err.splitlines()[-1].startswith(message)
