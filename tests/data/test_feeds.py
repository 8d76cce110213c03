import threading

import jax
import ml_collections
import numpy as np
import pytest

from moonshine_jax.data import feeds, sources
from moonshine_jax.data.splits import Split
from moonshine_jax.runtime.devices import Replicas

SPLIT = Split(np.random.default_rng(0).integers(0, 256, (21, 4, 4, 3), np.uint8), np.arange(21, dtype=np.int32))


def test_an_epoch_holds_every_example_at_most_once_and_drops_the_remainder():
  order = feeds.epoch_order(0, 0, 21, 4)
  assert order.shape == (5, 4) and order.dtype == np.int32
  assert len(set(order.ravel())) == 20 and set(order.ravel()) <= set(range(21))


def test_the_order_follows_from_seed_and_epoch():
  orders = [feeds.epoch_order(seed, epoch, 21, 4).tolist() for seed, epoch in [(0, 0), (0, 0), (0, 1), (1, 0)]]
  assert orders[0] == orders[1] and orders[0] != orders[2] and orders[0] != orders[3]


def test_the_order_is_drawn_with_the_second_key_of_a_seed():
  order_key = jax.random.split(jax.random.key(7), 3)[1]
  expected = jax.random.permutation(jax.random.fold_in(order_key, 2), 10)[:9]
  np.testing.assert_array_equal(feeds.epoch_order(7, 2, 10, 3).ravel(), expected)


@pytest.mark.parametrize(('skip', 'steps'), [(0, [2, 2, 1]), (1, [2, 2]), (2, [2, 1]), (5, [])])
def test_an_epoch_goes_on_after_the_steps_that_are_done(skip, steps):
  order = feeds.epoch_order(3, 1, 21, 4)
  replicas = Replicas(jax.devices()[:1])
  resident = list(feeds.ResidentFeed(SPLIT, replicas).epoch(3, 1, 4, skip, steps_per_dispatch=2))
  streamed = list(feeds.StreamFeed(SPLIT, replicas).epoch(3, 1, 4, skip, steps_per_dispatch=2))
  assert [len(batches['index']) for batches in resident] == steps
  assert [len(batches['index']) for batches in streamed] == [1] * sum(steps)
  for dispatches in (resident, streamed):
    seen = [index for batches in dispatches for index in batches['index']]
    assert np.array_equal(seen, order[skip:]) if steps else not seen


@pytest.mark.parametrize('examples', [1, 7, 8, 21])
def test_masked_batches_hold_every_example_once(examples):
  batches = list(feeds.masked_batches(examples, 8))
  assert all(batch['index'].shape == batch['mask'].shape == (8,) for batch in batches)
  seen = np.concatenate([batch['index'][batch['mask'] == 1] for batch in batches])
  np.testing.assert_array_equal(seen, np.arange(examples))
  assert max(batch['index'].max() for batch in batches) < examples


@pytest.mark.parametrize('devices', [1, 4])
@pytest.mark.parametrize('name', ['resident', 'stream'])
def test_both_feeds_give_the_examples_asked_for(name, devices):
  if len(jax.devices()) < devices:
    pytest.skip(f'needs {devices} devices')
  replicas = Replicas(jax.devices()[:devices])
  feed = feeds.FEEDS[name](SPLIT, replicas)
  order = feeds.epoch_order(3, 0, 21, 8)
  gather = replicas.compile(feed.gather)
  batches = [gather(feed.data, batch) for batch in feed.batches({'index': index} for index in order)]
  assert len(batches) == 2
  for index, batch in zip(order, batches, strict=True):
    np.testing.assert_array_equal(np.reshape(batch['image'], (8, 4, 4, 3)), SPLIT.images[index])
    np.testing.assert_array_equal(np.ravel(batch['label']), SPLIT.labels[index])


def test_the_stream_reads_two_batches_ahead_and_no_more():
  reached = []

  def indices():
    for i in range(6):
      reached.append(i)
      yield {'index': np.array([i])}

  batches = feeds.StreamFeed(SPLIT, Replicas(jax.devices()[:1])).batches(indices())
  assert next(batches)['label'] == 0 and reached == [0, 1, 2]
  assert next(batches)['label'] == 1 and reached == [0, 1, 2, 3]
  assert [int(batch['label'][0]) for batch in batches] == [2, 3, 4, 5]


@pytest.mark.parametrize('devices', [1, 4])
def test_the_stream_crops_by_seed_and_epoch_when_training_and_takes_the_middle_when_not(varied_images, devices):
  config = ml_collections.ConfigDict({'name': 'varied_images', 'data_dir': varied_images, 'image_size': 8})
  split = sources.open_source(config).read('train')
  replicas = Replicas(jax.devices()[:devices])
  feed = feeds.StreamFeed(split, replicas)
  order = feeds.epoch_order(3, 1, len(split), 8)
  assert len(order) > 1
  for key, batches in [
    ((3, 1), list(feed.epoch(3, 1, 8, steps_per_dispatch=5))),
    (None, list(feed.batches({'index': index} for index in order))),
  ]:
    for index, batch in zip(order, batches, strict=True):
      images, labels = split.take(index, key)
      np.testing.assert_array_equal(np.reshape(batch['image'], (8, 8, 8, 3)), images)
      np.testing.assert_array_equal(np.ravel(batch['label']), labels)


def test_an_error_in_the_stream_reaches_the_caller_and_ends_its_thread():
  before = set(threading.enumerate())
  with pytest.raises(IndexError):
    list(feeds.StreamFeed(SPLIT, Replicas(jax.devices()[:1])).batches([{'index': np.array([99])}]))
  assert set(threading.enumerate()) <= before
