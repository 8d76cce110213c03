"""Fisher information against its definition and finite differences, mixtures and correlations by hand."""

import itertools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from benchmarks import search as benchmark
from moonshine_jax.errors import Preempted, UserError
from moonshine_jax.models.network import Network
from moonshine_jax.models.wide_resnet import WideResNet
from moonshine_jax.search.settings import Settings
from moonshine_jax.search.space import Space

PLACES = ('conv2_block1', 'conv3_block1', 'conv4_block1')


def test_the_information_of_a_block_is_its_definition():
  activation, gradient = np.random.default_rng(0).normal(size=(2, 3, 4, 5, 2))
  expected = 0.0
  for channel in range(2):
    for example in range(3):
      product = sum(activation[example, :, :, channel].ravel() * gradient[example, :, :, channel].ravel())
      expected += 0.5 * product**2 / 3
  assert benchmark.fisher_of_block(jnp.asarray(activation), jnp.asarray(gradient)) == pytest.approx(expected, rel=1e-5)


def test_the_information_of_a_network_is_the_sum_over_its_blocks():
  network = Network(WideResNet(10, 1, 'S,G(N/8),B(2)', 3), (128.0,), (64.0,))
  rng = np.random.default_rng(0)
  images, labels = rng.integers(0, 256, (6, 8, 8, 1), np.uint8), rng.integers(0, 3, 6)
  whole = benchmark.fisher_information(network, PLACES, images, labels, 0)
  parts = [benchmark.fisher_information(network, [place], images, labels, 0) for place in PLACES[1:]]
  parts.append(benchmark.fisher_information(network, PLACES[:1], images, labels, 0))
  assert whole == pytest.approx(sum(parts), rel=1e-4)
  assert whole != benchmark.fisher_information(network, PLACES, images, labels, 1)


def test_mixtures_are_drawn_within_the_budget(monkeypatch):
  monkeypatch.setattr(benchmark, 'TRIES', 100)  # which miss one of 26 mixtures once in 10^44 times

  class Drawn:
    choices = np.ones((3, 3), bool)
    space = Space(ml_collections.ConfigDict(), None, PLACES, ('S',) * 3, ('B(2)', 'G(2)'), choices)
    costs = {'parameters': np.array([[9.0, 2.0, 4.0]] * 3)}  # noqa: RUF012

  assert Drawn.space.fits.shape == (3, 3)
  drawn = benchmark.draw_mixtures(Drawn, {'parameters': 10.0}, 8, seed=0)
  assert set(drawn) == {(i, j, k) for i in (1, 2) for j in (1, 2) for k in (1, 2) if [i, j, k].count(2) < 3}
  assert drawn == benchmark.draw_mixtures(Drawn, {'parameters': 10.0}, 8, seed=0)
  assert (0, 0, 0) not in benchmark.draw_mixtures(Drawn, {}, 26, seed=0)
  with pytest.raises(UserError, match='0 mixtures within the budget were drawn at random'):
    benchmark.draw_mixtures(Drawn, {'parameters': 5.0}, 8, seed=0)

  Drawn.choices = np.array([[True, True, False]] * 3)  # G(2) is B(2) there
  assert set(benchmark.draw_mixtures(Drawn, {}, 7, seed=0)) == set(itertools.product((0, 1), repeat=3)) - {(0, 0, 0)}


def test_a_search_from_a_network_of_the_package_is_read_with_the_name_of_its_data(monkeypatch):
  class ReadError(Exception):
    pass

  def search(teacher, folder, settings):
    raise ReadError(teacher, folder, settings.data, settings.data_dir)

  monkeypatch.setattr(benchmark, 'read_search', lambda folder: ('zoo:wrn-16-1-cifar10', Settings()))
  monkeypatch.setattr(benchmark, 'Search', search)
  with pytest.raises(ReadError) as raised:
    benchmark.main(['--search=runs/search', '--data=cifar:a.tar.gz', '--data_dir=/data'])
  assert raised.value.args == ('zoo:wrn-16-1-cifar10', 'runs/search', 'cifar:a.tar.gz', '/data')


@pytest.mark.parametrize(
  ('flags', 'raised', 'status', 'line'),
  [
    (['--mixtures=1'], None, 2, 'error: --mixtures=1: expected at least 2'),
    ([], UserError('out: holds no search'), 2, 'error: out: holds no search'),
    ([], Preempted('SIGTERM: what is done is saved'), 75, 'preempted: SIGTERM: what is done is saved'),
  ],
)
def test_what_ends_it_is_one_line(monkeypatch, capsys, flags, raised, status, line):
  def read(folder):
    raise raised

  monkeypatch.setattr(benchmark, 'read_search', read)
  with pytest.raises(SystemExit) as ended:
    benchmark.main(['--search=out', *flags])
  assert ended.value.code == status
  assert ''.join(capsys.readouterr()).splitlines() == [line]


def test_a_predictor_that_orders_rightly_has_1():
  rows = [
    {'error': error, 'predicted': error, 'sum': error**2, 'together': -error, 'fisher': 1 / error, 'parameters': same}
    for error, same in ((1.0, 1.0), (2.0, 0.0), (3.0, 1.0))
  ]
  correlations = benchmark.correlate(rows)
  assert {name: round(value, 6) for name, value in correlations.items()} == {
    'predicted': 1.0, 'sum': 1.0, 'together': -1.0, 'fisher': 1.0, 'parameters': 0.0,
  }  # fmt: skip


def test_gradients_are_those_of_added_activations():
  """Of the last block, whose channels reach the logits by BN, ReLU, a mean and a matrix alone."""
  network = Network(WideResNet(10, 1, 'S', 3), (0.0,), (1.0,))
  images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
  labels = np.array([0, 1, 2, 0])
  variables = network.init(jax.random.key(0), (8, 8, 1))

  def loss(activation):
    mean, var = activation.mean((0, 1, 2)), activation.var((0, 1, 2))
    x = jax.nn.relu((activation - mean) / jnp.sqrt(var + 1e-5)).mean((1, 2))
    logits = x @ variables['params']['fc']['kernel'] + variables['params']['fc']['bias']
    return -jax.nn.log_softmax(logits)[np.arange(4), labels].mean()

  (_, activations), _ = network(variables, images, train=True, mutable=['batch_stats'])
  gradient = jax.grad(loss)(activations[2])
  expected = benchmark.fisher_of_block(activations[2], gradient)
  found = benchmark.fisher_information(network, PLACES[2:], images, labels, 0)
  assert found == pytest.approx(expected, rel=1e-3)
