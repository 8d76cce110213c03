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


def test_a_cosine_after_a_linear_warm_up():
  config = cifar10.get_config()
  config.epochs = 10
  config.optimizer.update(schedule='cosine', warmup_epochs=2)
  learning_rate = optimizer.create_learning_rate_fn(config, steps_per_epoch=5)
  steps = np.arange(50)
  cosine = 0.05 * (1 + np.cos(np.pi * (steps - 10) / 40))
  np.testing.assert_allclose(
    [learning_rate(step) for step in steps], np.where(steps < 10, 0.01 * (steps + 1), cosine), rtol=1e-5, atol=1e-8
  )
  config.optimizer.update(schedule='steps', decay_epochs=(1, 4))  # a warm-up of any schedule
  learning_rate = optimizer.create_learning_rate_fn(config, steps_per_epoch=5)
  np.testing.assert_allclose(
    [learning_rate(step) for step in (0, 4, 5, 9, 10, 20)], [0.01, 0.05, 0.012, 0.02, 0.02, 0.004]
  )


def test_nesterov_without_decay_of_bn_and_biases_written_out():
  config = cifar10.get_config()
  config.optimizer.update(nesterov=True, decay_bn_and_biases=False)
  tx = optimizer.create_optimizer(config, steps_per_epoch=2)
  rng = np.random.default_rng(0)
  shapes = {'kernel': (3, 2), 'bias': (2,), 'scale': (2,)}
  params = expected = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
  opt_state, velocity = tx.init(params), dict.fromkeys(shapes, 0.0)
  for _ in range(3):
    gradient = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    updates, opt_state = tx.update(gradient, opt_state, params)
    params = optax.apply_updates(params, updates)
    decayed = {name: gradient[name] + (5e-4 * expected[name] if name == 'kernel' else 0) for name in shapes}
    velocity = {name: 0.9 * velocity[name] + decayed[name] for name in shapes}
    # As in PyTorch: the gradient once more, beside the velocity that has it already.
    expected = {name: expected[name] - 0.1 * (decayed[name] + 0.9 * velocity[name]) for name in shapes}
    for name in shapes:
      np.testing.assert_allclose(params[name], expected[name], rtol=1e-5)
