"""Boxes by hand, pixels of images whose every pixel is known, and the processes that decode."""

import io
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from moonshine_jax.data import decoding
from moonshine_jax.data.decoding import Decoders
from moonshine_jax.data.prepared import PreparedExamples
from moonshine_jax.errors import UserError
from moonshine_jax.runtime.cpu import available_cores
from tests.helpers.waiting import is_running


@pytest.mark.parametrize(('width', 'height'), [(400, 400), (40, 60), (7, 7)])
def test_random_boxes_are_of_the_areas_and_shapes_of_the_recipe(width, height):
  rng = np.random.default_rng(0)
  boxes = np.array([decoding.random_box(width, height, rng) for _ in range(2000)])
  assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= (width, height)).all()
  sides = boxes[:, 2:] - boxes[:, :2]
  assert (sides >= 1).all()
  if width > 100:  # where rounding to pixels does not matter
    areas, ratios = sides.prod(1) / (width * height), sides[:, 0] / sides[:, 1]
    assert 0.079 < areas.min() < 0.09 and 0.95 < areas.max() < 1.01
    assert 0.74 < ratios.min() < 0.76 and 1.32 < ratios.max() < 1.35
    assert abs(np.mean(np.log(ratios))) < 0.02  # no shape is preferred to its mirror image
    # As often at the left and at the top of the room that there is as at the right and at the bottom.
    room = (width, height) - sides
    assert abs((boxes[:, :2][room > 0] / room[room > 0]).mean() - 0.5) < 0.02


def test_where_no_random_box_fits_it_is_the_largest_in_the_middle():
  rng = np.random.default_rng(0)
  np.testing.assert_allclose(decoding.random_box(1000, 12, rng), (492, 0, 508, 12))
  np.testing.assert_allclose(decoding.random_box(12, 1000, rng), (0, 492, 12, 508))


def test_the_middle_is_224_of_256():
  assert decoding.central_box(512, 256) == (144, 16, 368, 240)
  assert decoding.central_box(256, 768) == (16, 272, 240, 496)


def encoded(width, height, form='PNG', mode='RGB', **options):
  """A file of an image whose red and green rise evenly from 0 to 200, to the right and downwards; blue is 7."""
  x, y = np.meshgrid(200 * np.arange(width) / width, 200 * np.arange(height) / height)
  file = io.BytesIO()
  image = Image.fromarray(np.stack([x, y, np.full_like(x, 7)], axis=-1).round().astype(np.uint8))
  image.convert(mode).save(file, form, **options)
  return file.getvalue()


@pytest.mark.parametrize(
  ('file', 'tolerance'),
  [
    (encoded(400, 320), 1),
    (encoded(400, 320, 'JPEG', quality=98, subsampling=0), 3),
    (encoded(400, 320, 'JPEG', 'CMYK', quality=98), 3),
  ],
  ids=['PNG', 'JPEG', 'CMYK'],
)
@pytest.mark.parametrize('box', [(40, 100, 104, 164), (90, 10, 346, 266), (8.5, 20.5, 264.5, 148.5)])
def test_a_box_is_resized_to_the_pixels_that_are_there(file, tolerance, box):
  """The box is larger by 2 to 8 times, and a JPEG decoded at that fraction, or twice it."""
  image = decoding.decode(file, 32, 3, lambda width, height: box, set())
  assert image.shape == (32, 32, 3) and image.dtype == np.uint8
  left, top, right, bottom = box
  at = (np.arange(32) + 0.5) / 32
  red = 200 / 400 * (left + at * (right - left) - 0.5)  # at the middle of each pixel
  green = 200 / 320 * (top + at * (bottom - top) - 0.5)
  np.testing.assert_allclose(image[..., 0], np.broadcast_to(red, (32, 32)), atol=tolerance)
  np.testing.assert_allclose(image[..., 1], np.broadcast_to(green[:, None], (32, 32)), atol=tolerance)
  np.testing.assert_allclose(image[..., 2], 7, atol=tolerance)


def test_grey_images_have_the_channels_that_are_asked_for():
  grey = encoded(64, 64, 'JPEG', 'L')
  one, three = (decoding.decode(grey, 16, channels, decoding.central_box, set()) for channels in (1, 3))
  assert one.shape == (16, 16, 1)
  np.testing.assert_array_equal(three, np.repeat(one, 3, axis=2))


@pytest.fixture(scope='module')
def decoders(varied_images):
  return Decoders(f'{varied_images}/varied_images/1.0.0', 14, 3)


def test_examples_are_those_of_tfds_at_the_size_of_the_recipe(decoders, varied_images):
  """The middles, against the recipe in two steps: the short side resized to 256 / 224 of 14, then 14x14 of it."""
  examples = tfds.builder_from_directory(f'{varied_images}/varied_images/1.0.0').as_data_source('test')
  images, labels = decoders.read(PreparedExamples(decoders._where, 'test'), np.arange(13), None)
  for image, label, example in zip(images, labels, examples, strict=True):
    whole = Image.fromarray(example['image'])
    short = min(whole.size)
    resized = whole.resize([round(side * 16 / short) for side in whole.size], Image.Resampling.BILINEAR)
    left, top = ((side - 14) // 2 for side in resized.size)
    expected = np.asarray(resized.crop((left, top, left + 14, top + 14)), np.float64)
    assert np.abs(image - expected).mean() < 12  # half a pixel apart where a side is odd
    assert np.corrcoef(image.ravel(), expected.ravel())[0, 1] > 0.97
    assert label == example['label']


def test_a_crop_follows_from_the_key_and_the_index_alone(decoders):
  index = np.array([3, 1, 19, 3, *range(16)])  # three tasks
  images, labels = decoders.read(PreparedExamples(decoders._where, 'train'), index, (5, 2))
  np.testing.assert_array_equal(images[0], images[3])
  for i in (0, 2, 9):
    again, label = decoders.read(PreparedExamples(decoders._where, 'train'), index[[i]], (5, 2))
    np.testing.assert_array_equal(again[0], images[i])
    assert label == labels[i]
  for key in ((5, 3), (4, 2), None):
    others, other_labels = decoders.read(PreparedExamples(decoders._where, 'train'), index, key)
    np.testing.assert_array_equal(other_labels, labels)
    assert (np.abs(others.astype(int) - images).mean((1, 2, 3)) > 2).all()


def test_16_bits_are_scaled_before_they_are_resized():
  ramp = np.tile(np.linspace(0, 255, 16).astype(np.uint8), (16, 1))
  file = io.BytesIO()
  Image.fromarray(ramp.astype(np.uint16) * 257).save(file, 'PNG')
  image = decoding.decode(file.getvalue(), 16, 1, lambda width, height: (0, 0, width, height), set())
  np.testing.assert_array_equal(image[..., 0], ramp)


def test_an_image_that_is_none_is_named_with_what_is_dropped_of_others(odd_images, capsys):
  folder = f'{odd_images}/odd_images/1.0.0'
  decoders = Decoders(folder, 8, 3)
  with pytest.raises(UserError, match=f"^{folder}: split 'test', example [0-3] cannot be read .UnidentifiedImageErr"):
    decoders.read(PreparedExamples(folder, 'test'), np.arange(4), None)
  assert capsys.readouterr().err == ''
  for _ in range(2):
    decoders.read(PreparedExamples(folder, 'train'), np.arange(4), None)
  assert capsys.readouterr().err == (
    f'warning: {folder}: some images are transparent in parts: this is dropped, as TensorFlow and torchvision drop it\n'
  )


def test_damaged_files_are_one_line_that_names_the_folder(varied_images, tmp_path):
  shutil.copytree(varied_images, tmp_path / 'data')
  (path,) = (tmp_path / 'data').rglob('*train.array_record*')
  data = bytearray(path.read_bytes())
  for position in range(1000, len(data), 5000):  # every image has about 2,000 bytes, and there is padding too
    data[position] ^= 16
  path.write_bytes(data)
  folder = f'{tmp_path}/data/varied_images/1.0.0'
  decoders = Decoders(folder, 14, 3)
  with pytest.raises(UserError, match=f"^{tmp_path}/data/varied_images/1.0.0: split 'train' cannot be read .*damaged"):
    decoders.read(PreparedExamples(folder, 'train'), np.arange(40), None)
  assert len(decoders.read(PreparedExamples(folder, 'test'), np.arange(13), None)[0]) == 13  # the processes live on


def test_a_process_that_is_killed_is_one_line(varied_images):
  decoders = Decoders(f'{varied_images}/varied_images/1.0.0', 14, 3)
  process = decoders._idle.get()
  process.kill()
  decoders._idle.put(process)
  with pytest.raises(UserError, match=r'^a process that decodes images has ended \(SIGKILL\): expected memory'):
    for _ in range(available_cores()):
      decoders.read(PreparedExamples(decoders._where, 'train'), np.arange(3), None)


def test_as_many_files_may_be_open_as_the_system_allows(monkeypatch):
  limits = []
  monkeypatch.setattr(resource, 'getrlimit', lambda _: (256, 4096))
  monkeypatch.setattr(resource, 'setrlimit', lambda _, limit: limits.append(limit))
  decoding._raise_file_limit()
  assert limits == [(4096, 4096)]


def test_on_macos_as_many_files_may_be_open_as_it_allows(monkeypatch):
  limits, infinite = [], 2**63 - 1

  def setrlimit(_, limit):
    if limit[0] > 10240:
      raise ValueError('current limit exceeds maximum limit')
    limits.append(limit)

  monkeypatch.setattr(resource, 'getrlimit', lambda _: (256, infinite))
  monkeypatch.setattr(resource, 'setrlimit', setrlimit)
  decoding._raise_file_limit()
  assert limits == [(10240, infinite)]


def test_the_processes_end_with_the_one_that_started_them(varied_images):
  program = (
    'import time; from moonshine_jax.data.decoding import Decoders;'
    f'd = Decoders("{varied_images}/varied_images/1.0.0", 14, 3);'
    'print(*[d._idle.get().pid for _ in range(d._idle.qsize())], flush=True); time.sleep(60)'
  )
  process = subprocess.Popen([sys.executable, '-c', program], stdout=subprocess.PIPE, text=True)
  pids = [int(word) for word in process.stdout.readline().split()]
  assert pids and all(map(is_running, pids))
  process.send_signal(signal.SIGKILL)
  process.communicate()
  deadline = time.monotonic() + 30
  while any(map(is_running, pids)):
    assert time.monotonic() < deadline
    time.sleep(0.05)
