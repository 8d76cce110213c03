"""The learning rate schedule and the optimiser: those of section 4.1, and what a config has in their place."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax


def create_learning_rate_fn(config: ml_collections.ConfigDict, steps_per_epoch: int) -> optax.Schedule:
  """Returns the learning rate by step.

  It is `config.optimizer.learning_rate`, times `decay_factor` from the start of each epoch (from 0) of `decay_epochs`;
  or, with the schedule 'cosine', it falls to 0 by a cosine. In the first `warmup_epochs` it rises linearly. Where
  blocks learn alone it is `config.blockwise.learning_rate`, which falls to 0 by a cosine.
  """
  if config.distill.blockwise:
    return optax.cosine_decay_schedule(config.blockwise.learning_rate, config.epochs * steps_per_epoch)
  optimizer = config.optimizer
  warmup_steps = optimizer.warmup_epochs * steps_per_epoch
  if optimizer.schedule == 'cosine':
    falling = optax.cosine_decay_schedule(
      optimizer.learning_rate, max(config.epochs * steps_per_epoch - warmup_steps, 1)
    )
    schedule = optax.join_schedules([optax.constant_schedule(optimizer.learning_rate), falling], [warmup_steps])
  else:
    schedule = optax.piecewise_constant_schedule(
      optimizer.learning_rate, {epoch * steps_per_epoch: optimizer.decay_factor for epoch in optimizer.decay_epochs}
    )
  if not warmup_steps:
    return schedule
  return lambda step: schedule(step) * jnp.minimum((step + 1) / warmup_steps, 1)


def create_optimizer(config: ml_collections.ConfigDict, steps_per_epoch: int) -> optax.GradientTransformation:
  """Returns SGD with momentum, Nesterov's where the config says so.

  Weight decay is added to the gradient before momentum; it is on every parameter, or on those of two axes and more
  alone. Where blocks learn alone it is `config.blockwise.optimizer`, without weight decay: what is not of a block stays
  as it is.
  """
  learning_rate = create_learning_rate_fn(config, steps_per_epoch)
  optimizer = config.optimizer
  if config.distill.blockwise:
    momentum = optimizer.momentum
    return optax.adam(learning_rate) if config.blockwise.optimizer == 'adam' else optax.sgd(learning_rate, momentum)
  return optax.chain(
    optax.add_decayed_weights(optimizer.weight_decay, None if optimizer.decay_bn_and_biases else _are_kernels),
    optax.sgd(learning_rate, momentum=optimizer.momentum, nesterov=optimizer.nesterov),
  )


def _are_kernels(params: Any) -> Any:
  """Whether each parameter is a kernel: one of BN, and a bias, has a single axis."""
  return jax.tree.map(lambda param: param.ndim > 1, params)
