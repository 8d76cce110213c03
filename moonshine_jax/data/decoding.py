"""Decoding of images of any size, cropped to one size whenever they are asked for, in separate processes.

Training takes another crop of an image each time, evaluation the middle of it. A crop follows from the numbers that it
is asked for with alone: neither the processes nor their number change it.

A process is `python -m moonshine_jax.data.decoding`: it imports neither JAX nor the program that started it, reads
requests from its standard input, and ends where that ends, also when the training process is killed.

Grain is not used: it gives the same crops, but (0.2.18, 2 cores, the images of `benchmarks/image_feed.py`, medians of 5
turns) at 0.94 of this speed, at 0.61 with the start of its processes, which comes again in each epoch; and it asks for
absl's global flags to be parsed.
"""

import contextlib
import functools
import io
import math
import os
import pickle
import queue
import resource
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from moonshine_jax.data.encoded import Encoded, Examples, decode_example
from moonshine_jax.data.images import open_image, to_channels
from moonshine_jax.errors import UserError, warn_once
from moonshine_jax.runtime.cpu import available_cores

Box = tuple[float, float, float, float]  # left, top, right and bottom, in pixels of the whole image

# Random crops of Szegedy et al. (2015), as torchvision has them.
AREA_RANGE = 0.08, 1.0  # share of the image's area
RATIO_RANGE = 3 / 4, 4 / 3  # width over height
ATTEMPTS = 10  # random boxes that are tried
CENTRE = 224 / 256  # the side of the middle that evaluation takes, as a share of the image's short side

MACOS_OPEN_MAX = 10240  # files that a process may open, where its hard limit is infinite

TASK_SIZE = 8  # images that a process is asked for at a time: few, so that all processes end a batch together


def random_box(width: int, height: int, rng: np.random.Generator) -> Box:
  """Chooses a box of random area, shape and place.

  Args:
    width: of the image, in pixels.
    height: of the image, in pixels.
    rng: the choice follows from it.

  Returns:
    The first of ATTEMPTS random boxes that fits into the image. Where none does, the largest box of an allowed shape in
    the middle of the image.
  """
  for _ in range(ATTEMPTS):
    area = width * height * rng.uniform(*AREA_RANGE)
    ratio = math.exp(rng.uniform(math.log(RATIO_RANGE[0]), math.log(RATIO_RANGE[1])))
    box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if 0 < box_width <= width and 0 < box_height <= height:
      left, top = int(rng.integers(width - box_width + 1)), int(rng.integers(height - box_height + 1))
      return left, top, left + box_width, top + box_height
  ratio = min(max(width / height, RATIO_RANGE[0]), RATIO_RANGE[1])
  return _middle(width, height, min(width, height * ratio), min(height, width / ratio))


def central_box(width: int, height: int) -> Box:
  """Returns the square in the middle of an image: 224x224 pixels, were its short side resized to 256.

  Args:
    width: of the image, in pixels.
    height: of the image, in pixels.
  """
  side = CENTRE * min(width, height)
  return _middle(width, height, side, side)


def box_chooser(key: tuple[int, ...] | None, position: int) -> Callable[[int, int], Box]:
  """Returns the function that chooses the box of an example from the width and height of its image.

  Args:
    key: numbers from which a random box follows, together with the position; None for the middle.
    position: index of the example in its split.
  """
  if key is None:
    return central_box
  return lambda width, height: random_box(width, height, np.random.default_rng((*key, position)))


def _middle(width: int, height: int, box_width: float, box_height: float) -> Box:
  """Returns the box of a size in the middle of an image."""
  left, top = (width - box_width) / 2, (height - box_height) / 2
  return left, top, left + box_width, top + box_height


def decode(
  encoded: bytes, size: int, channels: int, choose_box: Callable[[int, int], Box], doubts: set[str]
) -> np.ndarray:
  """Decodes an image and resizes a box of it to a square.

  A JPEG much larger than the square is decoded at 1/2, 1/4 or 1/8 of its size, which takes less time.

  Args:
    encoded: the image's file.
    size: of the square, pixels on a side.
    channels: 1 or 3.
    choose_box: called with the image's width and height.
    doubts: takes up what a user should know, as `images.to_channels` does.

  Returns:
    uint8 (size, size, channels).

  Raises:
    UserError: for an image of more than 16 bits a channel.
    Exception: what Pillow raises for a damaged file.
  """
  with open_image(encoded) as image:
    width, height = image.size
    left, top, right, bottom = choose_box(width, height)
    shrink = min(right - left, bottom - top) / size
    drafted = image.draft(None, (math.ceil(width / shrink), math.ceil(height / shrink)))
    scale = drafted[1][2] / width if drafted else 1  # a power of 2
    converted = to_channels(image, channels, doubts)
  box = scale * left, scale * top, scale * right, scale * bottom
  square = converted.resize((size, size), Image.Resampling.BILINEAR, box)
  return np.asarray(square).reshape(size, size, channels)


class Decoders:
  """Processes that read and decode the examples of a data set, one for each core; they end with this object."""

  def __init__(self, where: str | os.PathLike, size: int, channels: int):
    """Starts the processes.

    Args:
      where: the data set, for a warning.
      size: of the crops, pixels on a side.
      channels: of the images, 1 or 3.
    """
    self._where = where
    self._shape = size, size, channels
    command = [sys.executable, '-m', __name__, str(size), str(channels)]
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, [root, os.environ.get('PYTHONPATH')]))
    processes = [
      subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, 'PYTHONPATH': paths})
      for _ in range(available_cores())
    ]
    self._idle: queue.SimpleQueue[subprocess.Popen] = queue.SimpleQueue()
    for process in processes:
      self._idle.put(process)
    self._threads = ThreadPoolExecutor(len(processes))
    weakref.finalize(self, _end, processes)

  def read(self, examples: Examples, index: np.ndarray, key: tuple[int, ...] | None) -> tuple[np.ndarray, np.ndarray]:
    """Reads examples of a split.

    Args:
      examples: of the split.
      index: the examples' indices (n,), from 0.
      key: numbers from which an example's random crop follows, together with its index; None for the middle.

    Returns:
      The images, uint8 (n, size, size, channels), and the labels, int32 (n,).

    Raises:
      UserError: where an example cannot be read, or a process has ended.
    """
    images, labels = np.empty((len(index), *self._shape), np.uint8), np.empty(len(index), np.int32)
    tasks = [slice(start, start + TASK_SIZE) for start in range(0, len(index), TASK_SIZE)]
    pending = [
      self._threads.submit(self._ask, examples, index[task], key, images[task], labels[task]) for task in tasks
    ]
    try:
      doubts = set[str]().union(*(task.result() for task in pending))
    finally:
      for task in pending:
        task.cancel()
    for doubt in doubts:
      warn_once(f'{self._where}: {doubt}')
    return images, labels

  def _ask(
    self, examples: Examples, index: np.ndarray, key: tuple[int, ...] | None, images: np.ndarray, labels: np.ndarray
  ) -> set[str]:
    """Fills arrays with what a process reads, and returns the doubts about it."""
    process = self._idle.get()
    requests, answers = _pipes(process)
    try:
      pickle.dump((examples.reader(index.tolist()), examples.remedy, index.tolist(), key), requests)
      requests.flush()
      answer = pickle.load(answers)
      if not isinstance(answer, str):
        labels[:], doubts = answer
        if answers.readinto(images.data.cast('B')) < images.nbytes:
          raise EOFError
    except (EOFError, BrokenPipeError) as error:
      status = process.wait()
      reason = signal.Signals(-status).name if status < 0 else f'status {status}'
      raise UserError(
        f'a process that decodes images has ended ({reason}): expected memory enough for one on each '
        'core; the same command goes on from the newest checkpoint'
      ) from error
    finally:
      self._idle.put(process)
    if isinstance(answer, str):
      raise UserError(answer)
    return doubts


def _pipes(process: subprocess.Popen) -> tuple[io.BufferedWriter, io.BufferedReader]:
  """Returns the standard input and output of a process that was started with a pipe for each."""
  assert isinstance(process.stdin, io.BufferedWriter) and isinstance(process.stdout, io.BufferedReader)
  return process.stdin, process.stdout


def _end(processes: list[subprocess.Popen]) -> None:
  """Ends processes by the end of their input, and waits for them."""
  for process in processes:
    with contextlib.suppress(BrokenPipeError):
      _pipes(process)[0].close()
  for process in processes:
    process.wait()
    _pipes(process)[1].close()


def serve(size: int, channels: int) -> None:
  """Answers the requests of `Decoders`, on standard input and output, until there are no more.

  Args:
    size: of the crops, pixels on a side.
    channels: of the images, 1 or 3.
  """
  # Signals to the whole group of processes are for the one that trains, which still needs images until it has saved.
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
  _raise_file_limit()
  requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), 'wb')
  os.dup2(2, 1)  # what a library prints is no answer
  with contextlib.suppress(EOFError, BrokenPipeError):
    while True:
      read, remedy, index, key = pickle.load(requests)
      try:
        images, *answer = _decode_all(read(), remedy, index, key, (size, size, channels))
      except UserError as error:
        pickle.dump(str(error), answers)
      else:
        pickle.dump(answer, answers)
        answers.write(images.data)
      answers.flush()


def _raise_file_limit() -> None:
  """Lets this process open as many files as it may: each of ImageNet's 1,024 files stays open."""
  _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
  try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
  except ValueError:  # macOS says that there is no limit, and takes no more than OPEN_MAX
    resource.setrlimit(resource.RLIMIT_NOFILE, (MACOS_OPEN_MAX, most))


def _decode_all(
  examples: Sequence[Encoded],
  remedy: str,
  index: Sequence[int],
  key: tuple[int, ...] | None,
  shape: tuple[int, int, int],
) -> tuple[np.ndarray, np.ndarray, set[str]]:
  """Decodes the examples of one request; also returns the doubts. Raises UserError that names an example."""
  images, labels = np.empty((len(index), *shape), np.uint8), np.empty(len(index), np.int32)
  doubts: set[str] = set()
  for i, (position, example) in enumerate(zip(index, examples, strict=True)):
    crop = functools.partial(decode, size=shape[0], channels=shape[2], choose_box=box_chooser(key, position))
    images[i] = decode_example(example, functools.partial(crop, doubts=doubts), remedy)
    labels[i] = example.label
  return images, labels, doubts


if __name__ == '__main__':
  serve(int(sys.argv[1]), int(sys.argv[2]))
