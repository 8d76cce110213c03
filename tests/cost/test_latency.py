import jax

from moonshine_jax.cost import latency
from moonshine_jax.models.network import Network
from moonshine_jax.models.wide_resnet import WideResNet


def test_latencies_of_networks_with_images_of_different_sizes():
  networks = [(Network(WideResNet(10, 1, 'S', 10), (0.0,), (1.0,)), (size, size, 1)) for size in (8, 16)]
  latencies = latency.measure_network_latencies(networks, repeats=3)
  assert [len(seconds) for seconds in latencies] == [3, 3] and min(map(min, latencies)) > 0


def test_networks_share_arrays_of_one_kind_and_shape():
  arrays = {}
  network = Network(WideResNet(10, 1, 'S', 10), (0.0,), (1.0,))
  latency.compile_forward(network, (8, 8, 1), 1, arrays)
  first = dict(arrays)
  latency.compile_forward(Network(WideResNet(10, 1, 'S,S,B(2)', 10), (0.0,), (1.0,)), (8, 8, 1), 1, arrays)
  leaves = jax.tree.leaves(network.init(jax.random.key(0), (8, 8, 1)))
  assert len(first) < len(leaves) and arrays.items() >= first.items()
  added = {(keys.key, shape) for keys, shape, _ in arrays.keys() - first.keys()}
  assert {shape for name, shape in added if name == 'kernel'} == {(1, 1, 32, 32)}
