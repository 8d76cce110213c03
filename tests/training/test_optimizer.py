import numpy as np
import optax

from moonshine_jax.configs import cifar10
from moonshine_jax.training import optimizer


def test_learning_rate_of_the_paper():
  learning_rate = optimizer.create_learning_rate_fn(cifar10.get_config(), steps_per_epoch=390)
  for epoch, expected in [(0, 0.1), (59, 0.1), (60, 0.02), (119, 0.02), (120, 0.004), (160, 0.0008), (199, 0.0008)]:
    for step in (epoch * 390, epoch * 390 + 389):  # from the first step of an epoch to its last
      np.testing.assert_allclose(learning_rate(step), expected, rtol=1e-6)


def test_optimizer_equals_sgd_written_out():
  config = cifar10.get_config()
  config.optimizer.decay_epochs = (1, 2)
  tx = optimizer.create_optimizer(config, steps_per_epoch=2)
  rng = np.random.default_rng(0)
  params = expected = rng.normal(size=3).astype(np.float32)
  opt_state, velocity = tx.init(params), np.zeros(3)
  for learning_rate in (0.1, 0.1, 0.02, 0.02, 0.004):
    gradient = rng.normal(size=3).astype(np.float32)
    updates, opt_state = tx.update(gradient, opt_state, params)
    params = optax.apply_updates(params, updates)
    # Weight decay joins the gradient before momentum; the learning rate is applied last, as in PyTorch.
    velocity = 0.9 * velocity + gradient + 5e-4 * expected
    expected = expected - learning_rate * velocity
    np.testing.assert_allclose(params, expected, rtol=1e-5)
