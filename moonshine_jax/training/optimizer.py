"""The learning rate schedule and the optimiser of section 4.1."""

import ml_collections
import optax


def create_learning_rate_fn(config: ml_collections.ConfigDict, steps_per_epoch: int) -> optax.Schedule:
  """Returns the learning rate by step.

  It is `config.optimizer.learning_rate`, times `decay_factor` from the start of each epoch (from 0) of `decay_epochs`.
  Where blocks learn alone it is `config.blockwise.learning_rate`, which falls to 0 by a cosine.
  """
  if config.distill.blockwise:
    return optax.cosine_decay_schedule(config.blockwise.learning_rate, config.epochs * steps_per_epoch)
  optimizer = config.optimizer
  return optax.piecewise_constant_schedule(
    optimizer.learning_rate, {epoch * steps_per_epoch: optimizer.decay_factor for epoch in optimizer.decay_epochs}
  )


def create_optimizer(config: ml_collections.ConfigDict, steps_per_epoch: int) -> optax.GradientTransformation:
  """Returns SGD with momentum, not Nesterov's.

  Weight decay is on every parameter, and added to the gradient before momentum. Where blocks learn alone it is
  `config.blockwise.optimizer`, without weight decay: what is not of a block stays as it is.
  """
  learning_rate = create_learning_rate_fn(config, steps_per_epoch)
  if config.distill.blockwise:
    momentum = config.optimizer.momentum
    return optax.adam(learning_rate) if config.blockwise.optimizer == 'adam' else optax.sgd(learning_rate, momentum)
  return optax.chain(
    optax.add_decayed_weights(config.optimizer.weight_decay),
    optax.sgd(learning_rate, momentum=config.optimizer.momentum),
  )
