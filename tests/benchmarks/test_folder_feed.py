"""That the command measures what it says, on few and small crops."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import folder_feed, image_feed


@pytest.fixture
def few(monkeypatch):
  monkeypatch.setattr(image_feed, 'PHOTOGRAPHS', 3)


def test_every_way_that_is_installed_is_measured(few, tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(folder_feed.NEEDS, 'ImageFolder', 'no_such_library')
  monkeypatch.setitem(folder_feed.NEEDS, 'grain', 'no_such_library')
  path = tmp_path / 'feed.json'
  folder_feed.main(['--image_size=16', '--batch=4', '--batches=3', '--repeats=1', f'--json={path}'])
  written = json.loads(path.read_text())
  assert [row['run'] for row in written['rows']] == ['folder:PATH']
  for measure in ('images_per_second', 'images_per_cpu_second'):
    figures = written['rows'][0][measure]
    assert figures['lowest'] == figures['median'] == figures['highest'] > 0
  assert 'JPEGs of 500x375 pixels' in capsys.readouterr().out


@pytest.mark.parametrize('way', folder_feed.WAYS)
def test_every_way_gives_all_images_of_an_epoch(way, few, tmp_path):
  if importlib.util.find_spec(folder_feed.NEEDS[way]) is None:
    pytest.skip(f'{folder_feed.NEEDS[way]} is not installed')
  folder_feed.write_photographs(tmp_path, 12)
  batches = list(folder_feed.WAYS[way](tmp_path, 16, 4)(1))
  assert len(batches) == 3
  for batch in batches:
    images = batch['image'][0] if way == 'folder:PATH' else batch[0] if way == 'ImageFolder' else batch
    assert sorted(np.shape(images)) == [3, 4, 16, 16] and str(images.dtype).endswith('uint8')


def test_cpu_time_is_that_of_running_and_of_ended_processes():
  program = 'import sys, time\nwhile time.process_time() < 0.4: pass\nprint(flush=True)\nsys.stdin.read()'
  before = folder_feed.cpu_seconds()
  child = subprocess.Popen([sys.executable, '-c', program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
  child.stdout.readline()
  running = folder_feed.cpu_seconds()
  child.communicate()
  ended = folder_feed.cpu_seconds()
  assert before + 0.3 < running <= ended < running + 0.3
