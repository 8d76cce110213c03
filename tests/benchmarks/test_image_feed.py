"""That the command measures what it says, on few and small crops."""

import json

import pytest

from benchmarks import image_feed


def test_every_way_is_measured(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(image_feed, 'PHOTOGRAPHS', 3)
  path = tmp_path / 'feed.json'
  image_feed.main(['--image_size=16', '--batch=4', '--batches=1', '--repeats=1', f'--json={path}'])
  written = json.loads(path.read_text())
  assert [row['run'] for row in written['rows']] == [
    'random crops, one core',
    'middles, one core',
    'random crops, the feed',
    'middles, the feed',
  ]
  assert all(row['lowest'] == row['highest'] > 0 for row in written['rows']) and written['processes'] >= 1
  assert 'JPEGs of 500x375 pixels and ' in capsys.readouterr().out


def test_files_are_nearly_as_large_as_imagenets(monkeypatch):
  monkeypatch.setattr(image_feed, 'PHOTOGRAPHS', 10)
  sizes = [len(file) for file in image_feed.make_photographs()]
  assert sum(sizes) / len(sizes) == pytest.approx(100_000, rel=0.15)
