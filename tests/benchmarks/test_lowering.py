"""What the programs for a compiler are described by, in place of arrays."""

import jax
import numpy as np
import pytest

from benchmarks.lowering import DescribedReplicas
from moonshine_jax.runtime.devices import Replicas


@pytest.mark.parametrize('number', [1, 4])
def test_describes_what_replicas_put_on_devices(number):
  if len(jax.devices()) < number:
    pytest.skip(f'needs {number} devices')
  devices = jax.devices()[:number]
  described, real = DescribedReplicas(devices), Replicas(devices)
  tree = {'image': np.zeros((8, 12), np.uint8), 'label': np.zeros(8, np.int32)}
  pairs = [
    (described.replicate(tree), real.replicate(tree)),
    (described.shard(tree), real.shard(tree)),
    (
      described.shard({'index': np.zeros((3, 8), np.int32)}, axis=1),
      real.shard({'index': np.zeros((3, 8), np.int32)}, axis=1),
    ),
  ]
  for ours, theirs in pairs:
    assert jax.tree.map(lambda x: (x.shape, x.dtype), ours) == jax.tree.map(lambda x: (x.shape, x.dtype), theirs)
