"""Measures how many image files a second a folder gives, beside torchvision's ImageFolder and grain.

  python -m benchmarks.folder_feed --json=folder_feed.json

The folder holds JPEGs of 500x375 pixels, ImageNet's most frequent size, cut out of the two photographs that
scikit-learn carries. Each way reads, decodes and crops batches of them at random, and takes turns with the others:

* `folder:PATH` with `config.data.image_size`: a process on each core, to the device;
* `torchvision.datasets.ImageFolder` with `RandomResizedCrop`, in a `DataLoader` of as many workers, to uint8 tensors;
* `grain.MapDataset` with the decoding of `folder:PATH`, in as many processes of `mp_prefetch`.

What is timed is an epoch, from the first request to the last batch: by the clock, and by the CPU time of all processes,
which other work on the machine disturbs least: what one core does. The processes of the first two are running by then;
grain starts its own in each epoch. A way whose library is not installed is left out.
"""

import argparse
import contextlib
import functools
import gc
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.command import add_json, write_json
from benchmarks.image_feed import HEIGHT, WIDTH, make_photographs
from moonshine_jax.configs import imagenet
from moonshine_jax.data import decoding, feeds, sources
from moonshine_jax.runtime.cpu import available_cores
from moonshine_jax.runtime.devices import Replicas

CLASSES = 10


def write_photographs(folder: Path, images: int) -> None:
  """Writes a folder of JPEGs, FOLDER/train/CLASS/NUMBER.jpg; the same photographs come again and again."""
  files = make_photographs()
  for i in range(images):
    path = folder / 'train' / f'{i % CLASSES}' / f'{i}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(files[i % len(files)])


def moonshine_batches(folder: Path, size: int, batch: int) -> Callable[[int], Iterator[Any]]:
  """Returns the function of an epoch's number that gives its batches by `folder:PATH`."""
  config = imagenet.get_config().data
  config.name, config.image_size = f'folder:{folder}', size
  feed = feeds.StreamFeed(sources.open_source(config).read('train'), Replicas(jax.local_devices()[:1]))
  return lambda epoch: map(jax.block_until_ready, feed.epoch(0, epoch, batch))


def torchvision_batches(folder: Path, size: int, batch: int) -> Callable[[int], Iterator[Any]]:
  """Returns the function of an epoch's number that gives its batches by torchvision."""
  import torch
  from torchvision import datasets, transforms

  crop = transforms.Compose([transforms.RandomResizedCrop(size), transforms.PILToTensor()])
  loader = torch.utils.data.DataLoader(
    datasets.ImageFolder(str(folder / 'train'), crop),
    batch,
    shuffle=True,
    drop_last=True,
    num_workers=available_cores(),
    persistent_workers=True,
  )
  return lambda epoch: iter(loader)


class Photographs:
  """A folder as grain takes a source: decoded and cropped as `folder:PATH` does it."""

  def __init__(self, folder: Path, size: int):
    self._paths, self._size = sorted((folder / 'train').rglob('*.jpg')), size

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, index: int) -> np.ndarray:
    chooser = decoding.box_chooser((0, 0), index)
    return decoding.decode(self._paths[index].read_bytes(), self._size, 3, chooser, set())


def grain_batches(folder: Path, size: int, batch: int) -> Callable[[int], Iterator[Any]]:
  """Returns the function of an epoch's number that gives its batches by grain."""
  import grain
  from absl import flags  # noqa: TID251 - grain's processes ask for them, parsed

  if not flags.FLAGS.is_parsed():
    flags.FLAGS(['folder_feed'])
  source = Photographs(folder, size)

  def epoch(number: int) -> Iterator[Any]:
    data = grain.MapDataset.source(source).seed(0).shuffle(seed=number).batch(batch, drop_remainder=True)
    return iter(data.to_iter_dataset().mp_prefetch(grain.MultiprocessingOptions(num_workers=available_cores())))

  return epoch


WAYS = {'folder:PATH': moonshine_batches, 'ImageFolder': torchvision_batches, 'grain': grain_batches}
NEEDS = {'folder:PATH': 'jax', 'ImageFolder': 'torchvision', 'grain': 'grain'}


def cpu_seconds() -> float:
  """Returns the CPU time of this process and of all that it has started, those that have ended too. Linux alone."""
  fields = {}
  for path in Path('/proc').glob('[0-9]*/stat'):
    with contextlib.suppress(OSError):  # of a process that has just ended
      pid, _, rest = path.read_text().partition(' (')
      fields[int(pid)] = rest.rpartition(') ')[2].split()
  total, parents = 0, [os.getpid()]
  while parents:
    pid = parents.pop()
    total += sum(map(int, fields[pid][11:15]))  # utime, stime, and those of its ended children
    parents += [child for child, values in fields.items() if int(values[1]) == pid]
  return total / os.sysconf('SC_CLK_TCK')


def time_epoch(batches: Callable[[], Iterator[Any]], images: int) -> dict[str, float]:
  """Takes all batches of an epoch; returns images a second, by the clock and by the CPU time of all processes.

  Args:
    batches: makes the batches.
    images: in a batch.
  """
  start, cpu, taken = time.perf_counter(), cpu_seconds(), 0
  for _ in batches():
    taken += images
  gc.collect()  # ends the processes of an iterator
  return {
    'images_per_second': taken / (time.perf_counter() - start),
    'images_per_cpu_second': taken / (cpu_seconds() - cpu),
  }


def main(arguments: list[str] | None = None) -> None:
  """Measures each way, in turns, and prints images a second, by the clock and of one core."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--image_size', type=int, default=224, help='pixels on a side of a crop (default: 224)')
  parser.add_argument('--batch', type=int, default=64, help='images in a batch (default: 64)')
  parser.add_argument('--batches', type=int, default=32, help='batches of an epoch (default: 32)')
  parser.add_argument('--repeats', type=int, default=5, help='epochs that are timed, after one to warm up (default: 5)')
  add_json(parser)
  flags = parser.parse_args(arguments)

  there = {name: make for name, make in WAYS.items() if importlib.util.find_spec(NEEDS[name])}
  cores = available_cores()
  speeds: dict[str, list[dict[str, float]]] = {name: [] for name in there}
  with tempfile.TemporaryDirectory() as folder:
    write_photographs(Path(folder), flags.batch * flags.batches)
    ways = {name: make(Path(folder), flags.image_size, flags.batch) for name, make in there.items()}
    for epoch in range(flags.repeats + 1):
      for name, batches in ways.items():
        speed = time_epoch(functools.partial(batches, epoch), flags.batch)
        speeds[name] += [speed] * (epoch > 0)
  print(
    f'images a second: median (lowest to highest) of {flags.repeats} epochs; JPEGs of {WIDTH}x{HEIGHT} pixels, random '
    f'crops of {flags.image_size}x{flags.image_size}; {cores} processes each'
  )
  rows = []
  for name, samples in speeds.items():
    row: dict[str, Any] = {'run': name}
    for measure in samples[0]:
      figures = [sample[measure] for sample in samples]
      row[measure] = {'median': statistics.median(figures), 'lowest': min(figures), 'highest': max(figures)}
    rows.append(row)
    clock, core = (
      f'{row[measure]["median"]:.0f} ({row[measure]["lowest"]:.0f} to {row[measure]["highest"]:.0f})'
      for measure in samples[0]
    )
    print(f'{name:<12} {clock} by the clock, {core} of one core, by CPU time')
  write_json(flags.json, flags, rows, processes=cores)


if __name__ == '__main__':
  main()
