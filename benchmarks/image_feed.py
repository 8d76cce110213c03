"""Measures how many photographs a second the cores decode and crop: what `config.data.image_size` costs the host.

  python -m benchmarks.image_feed --json=image_feed.json

The images are JPEGs of 500x375 pixels, ImageNet's most frequent size, cut out of the two photographs that scikit-learn
carries; their files are nearly as large as ImageNet's (100 kB). Random crops are measured as for training, the middles
as for evaluation:

* decoded in this process, by its CPU time, which other work on the machine disturbs least: what one core does;
* by the feed, from an array_record file through its processes (one for each core) to the device, by the clock.

An accelerator that trains X images a second wants X over the first figure cores, and some for the training process.
"""

import argparse
import functools
import io
import statistics
import tempfile
import time

import jax
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from benchmarks.command import add_json, write_json
from moonshine_jax.configs import imagenet
from moonshine_jax.cost.timing import time_in_turns
from moonshine_jax.data import decoding, feeds, sources
from moonshine_jax.runtime.cpu import available_cores
from moonshine_jax.runtime.devices import Replicas

WIDTH, HEIGHT, QUALITY = 500, 375, 97
PHOTOGRAPHS = 200  # distinct images; they are read again and again


class Photographs(tfds.core.GeneratorBasedBuilder):
  """A data set of JPEGs, which are encoded without TFDS: TFDS encodes with TensorFlow."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {'image': tfds.features.Image(shape=(None, None, 3)), 'label': tfds.features.ClassLabel(num_classes=2)}
      ),
    )

  def _split_generators(self, dl_manager):
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    for i, file in enumerate(make_photographs()):
      yield i, {'image': file, 'label': i % 2}


def make_photographs() -> list[bytes]:
  """Makes PHOTOGRAPHS JPEGs, each of another part of a photograph."""
  from sklearn.datasets import load_sample_images

  whole, rng = load_sample_images().images, np.random.default_rng(0)
  files = []
  for i in range(PHOTOGRAPHS):
    image = whole[i % len(whole)]
    top, left = rng.integers(image.shape[0] - HEIGHT), rng.integers(image.shape[1] - WIDTH)
    file = io.BytesIO()
    Image.fromarray(image[top : top + HEIGHT, left : left + WIDTH]).save(file, 'JPEG', quality=QUALITY)
    files.append(file.getvalue())
  return files


def main(arguments: list[str] | None = None) -> None:
  """Measures decoding and the feed, for both kinds of crops, and prints images a second."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--image_size', type=int, default=224, help='pixels on a side of a crop (default: 224)')
  parser.add_argument('--batch', type=int, default=256, help='images in a batch (default: 256)')
  parser.add_argument('--batches', type=int, default=8, help='batches that are timed together (default: 8)')
  parser.add_argument('--repeats', type=int, default=5, help='times that each is timed, after warm-up (default: 5)')
  add_json(parser)
  flags = parser.parse_args(arguments)

  with tempfile.TemporaryDirectory() as data_dir:
    Photographs(data_dir=data_dir, file_format='array_record').download_and_prepare()
    config = imagenet.get_config().data
    config.name, config.data_dir, config.image_size = 'photographs', data_dir, flags.image_size
    feed = feeds.StreamFeed(sources.open_source(config).read('train'), Replicas(jax.local_devices()[:1]))
    files = make_photographs()
    index = np.resize(np.arange(PHOTOGRAPHS), (flags.batches, flags.batch))
    keys = {'random crops': (0, 0), 'middles': None}
    speeds = {
      f'{crop}, one core': [len(files) / time_decoding(files, flags.image_size, key) for _ in range(flags.repeats)]
      for crop, key in keys.items()
    }
    seconds = time_in_turns(
      {f'{crop}, the feed': functools.partial(drain_feed, feed, index, key) for crop, key in keys.items()},
      flags.repeats,
    )
    speeds |= {name: [index.size / elapsed for elapsed in times] for name, times in seconds.items()}

  cores = available_cores()
  print(
    f'images a second: median (lowest to highest) of {flags.repeats}; JPEGs of {WIDTH}x{HEIGHT} pixels and '
    f'{statistics.mean(map(len, files)) / 1000:.0f} kB, crops of {flags.image_size}x{flags.image_size}; '
    f'the feed has {cores} processes'
  )
  rows = []
  for name, samples in speeds.items():
    median, lowest, highest = statistics.median(samples), min(samples), max(samples)
    rows.append({'run': name, 'images_per_second': median, 'lowest': lowest, 'highest': highest})
    print(f'{name:<24} {median:>6.0f} ({lowest:.0f} to {highest:.0f})')
  write_json(flags.json, flags, rows, processes=cores)


def time_decoding(files: list[bytes], size: int, key: tuple[int, ...] | None) -> float:
  """Decodes and crops all files; returns the seconds of CPU time.

  Args:
    files: JPEGs.
    size: pixels on a side of a crop.
    key: of the random crops; None for the middles.
  """
  start = time.process_time()
  for i, file in enumerate(files):
    decoding.decode(file, size, 3, decoding.box_chooser(key, i), set())
  return time.process_time() - start


def drain_feed(feed: feeds.StreamFeed, index: np.ndarray, key: tuple[int, ...] | None) -> None:
  """Takes a batch from the feed for each row of indices (batches, batch), and waits for it."""
  for batch in feed.batches(({'index': row} for row in index), key=key):
    jax.block_until_ready(batch)


if __name__ == '__main__':
  main()
