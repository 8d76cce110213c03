"""The initial values of what stands in a convolution's place; test_replace.py has the rest."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import moonshine_jax

IMAGES = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
WEIGHTS = np.full((3, 3, 8, 16), 7, np.float32)


@pytest.mark.parametrize(
  'kernel_init',
  [
    lambda *_: WEIGHTS,  # pretrained weights, whatever shape is asked for
    nn.initializers.constant(WEIGHTS),  # these fail for any other shape
    nn.with_partitioning(lambda *_: WEIGHTS, (None,) * 4),
    nn.initializers.delta_orthogonal(),  # fails for fewer outputs than inputs
  ],
)
@pytest.mark.parametrize(
  ('block', 'name', 'shape'),
  [
    ('G(2)', 'pointwise', (1, 1, 8, 16)),
    ('B(4)', 'expand', (1, 1, 4, 16)),
    ('S-2x2', '', (2, 2, 8, 16)),
  ],
)
def test_initial_values_of_the_original_s_shape_give_way_to_ours(kernel_init, block, name, shape):
  teacher = nn.Sequential([nn.Conv(8, (3, 3)), nn.Conv(16, (3, 3), kernel_init=kernel_init), nn.Dense(2)])
  student = moonshine_jax.cheapen(teacher, block, IMAGES)
  params = nn.meta.unbox(jax.eval_shape(student.init, jax.random.key(0), IMAGES))['params']['layers_1']
  assert (params[name] if name else params)['kernel'].shape == shape
