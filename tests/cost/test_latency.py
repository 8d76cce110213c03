from moonshine_jax.cost import latency
from moonshine_jax.models.network import Network
from moonshine_jax.models.wide_resnet import WideResNet


def test_latencies_of_networks_with_images_of_different_sizes():
  networks = [(Network(WideResNet(10, 1, 'S', 10), (0.0,), (1.0,)), (size, size, 1)) for size in (8, 16)]
  latencies = latency.measure_network_latencies(networks, repeats=3)
  assert [len(seconds) for seconds in latencies] == [3, 3] and min(map(min, latencies)) > 0
