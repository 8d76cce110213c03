"""What depends on the whole batch: on eight devices it is what it is on one, and so is its gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moonshine_jax import losses

RNG = np.random.default_rng(0)


@pytest.mark.skipif(len(jax.devices()) < 8, reason='needs 8 devices')
@pytest.mark.parametrize(
  ('loss', 'shape'),
  [
    (lambda s, t, name: losses.correlation_distillation(s, t, 4.0, axis_name=name), (16, 5)),
    (lambda s, t, name: losses.normalised_squared_error([s], [t], name), (16, 2, 3, 4)),
    (lambda s, t, name: losses.similarity_preservation([s], [t], name), (16, 2, 3, 4)),
  ],
  ids=('dist', 'nmse', 'similarity'),
)
def test_eight_devices_compute_what_one_does(loss, shape):
  student, teacher = RNG.normal(size=(2, *shape)).astype(np.float32) * 3

  def mean_loss(student, teacher, name):
    return loss(student, teacher, name).mean()

  one, gradient = jax.jit(jax.value_and_grad(functools.partial(mean_loss, name=None)))(student, teacher)
  shares = (x.reshape(8, 2, *shape[1:]) for x in (student, teacher))
  eight, gradients = jax.pmap(jax.value_and_grad(functools.partial(mean_loss, name='batch')), axis_name='batch')(
    *shares
  )
  np.testing.assert_allclose(jnp.mean(eight), one, rtol=1e-5)
  # Of a replica's loss all examples have a gradient: the mean over the replicas divides it by 8.
  np.testing.assert_allclose(
    gradients.reshape(shape) / 8, gradient, rtol=1e-4, atol=1e-6 * np.abs(np.asarray(gradient)).max()
  )
