"""The train step and the evaluation step: pure, written once, for one replica."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax

from moonshine_jax import augment, losses, parallel


@flax.struct.dataclass
class TrainState:
  """All that a step changes, and the key that its random choices follow from.

  Attributes:
    step: int32, steps done.
    params: the model's parameters.
    batch_stats: BN's running statistics.
    opt_state: of the optimiser.
    rng: a raw key; a step's choices follow from it and `step` alone.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  rng: jax.Array

  @property
  def variables(self) -> dict[str, Any]:
    """What the model is applied to."""
    return {'params': self.params, 'batch_stats': self.batch_stats}


@dataclasses.dataclass(frozen=True)
class Network:
  """A model and the normalisation that it is trained with: called with uint8 images.

  Attributes:
    model: a linen module that returns (logits, activations).
    mean: of each channel's pixels, in the units of uint8.
    std: likewise.
  """

  model: nn.Module
  mean: tuple[float, ...]
  std: tuple[float, ...]

  def __call__(self, variables: dict[str, Any], images: jax.Array, train: bool, **kwargs: Any) -> Any:
    """Normalises uint8 images (batch, height, width, channels) and applies the model."""
    return self.model.apply(variables, augment.normalise(images, self.mean, self.std), train=train, **kwargs)


def create_train_state(network: Network, image_shape: tuple[int, ...], tx: optax.GradientTransformation,
                       init_key: jax.Array, step_key: jax.Array) -> TrainState:
  """The state at step 0. `lazy_init` runs the initialisers alone: neither the forward pass nor its compilation."""
  variables = network.model.lazy_init(init_key, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
  return TrainState(jnp.zeros((), jnp.int32), variables['params'], variables['batch_stats'],
                    tx.init(variables['params']), jax.random.key_data(step_key))


def make_train_step(
  config: ml_collections.ConfigDict,
  student: Network,
  teacher: Network | None,
  tx: optax.GradientTransformation,
  gather: Callable,
  replicas: parallel.Replicas,
) -> Callable:
  """The step (state, teacher's variables, data, batch) -> (state, metrics) of one replica.

  The loss is (1 - alpha) CE + alpha KD + beta AT (equations 1 and 2); without a teacher it is CE. `data` and `gather`
  are a feed's, `batch` this replica's share. The metrics are means over the whole batch: 'loss', its terms 'ce', 'kd'
  and 'at' as far as they are used, before their weights, and 'error' in percent.
  """
  axis_name = replicas.axis_name
  distill = config.distill
  alpha, beta = (distill.alpha, distill.beta) if teacher else (0.0, 0.0)

  def train_step(state, teacher_variables, data, batch):
    batch = gather(data, batch)
    labels = batch['label']
    key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    # Drawn for the whole batch, so that an example's choices do not depend on the number of devices.
    choices = augment.draw(key, config.batch_size, config.data.pad, config.data.flip)
    choices = parallel.own_share(choices, len(labels), axis_name)
    images = augment.crop_and_flip(batch['image'], choices, config.data.pad)
    if teacher:
      teacher_logits, teacher_activations = jax.lax.stop_gradient(teacher(teacher_variables, images, train=False))

    def loss_fn(params):
      (logits, activations), updates = student(
        {'params': params, 'batch_stats': state.batch_stats}, images, train=True, mutable=['batch_stats'])
      terms = {'ce': losses.cross_entropy(logits, labels).mean()}
      loss = (1 - alpha) * terms['ce']
      if alpha:
        terms['kd'] = losses.knowledge_distillation(
          logits, teacher_logits, distill.temperature, distill.kd_form).mean()
        loss += alpha * terms['kd']
      if beta:
        terms['at'] = losses.attention_transfer(activations, teacher_activations, distill.at_form).mean()
        loss += beta * terms['at']
      metrics = {'loss': loss, **terms, 'error': 100 * (logits.argmax(-1) != labels).mean()}
      return loss, (metrics, updates['batch_stats'])

    grads, (metrics, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    grads, metrics = parallel.mean((grads, metrics), axis_name)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return state.replace(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state), metrics

  return train_step


def make_train_loop(train_step: Callable) -> Callable:
  """The loop (state, teacher's variables, data, batches) -> (state, metrics) of many steps in one dispatch.

  The batches and the metrics are the step's, stacked along a new first axis. Free on CPU too, since no convolution of
  ours leaves its gradients to XLA: inside a loop XLA:CPU computes those naively (`ops/formulations.py`).
  """

  def train_loop(state, teacher_variables, data, batches):
    return jax.lax.scan(lambda state, batch: train_step(state, teacher_variables, data, batch), state, batches)

  return train_loop


def make_eval_step(network: Network, gather: Callable, replicas: parallel.Replicas) -> Callable:
  """The step (variables, data, batch) -> sums over the whole batch's examples under its mask, of one replica.

  The sums are 'loss' (cross entropy), 'wrong' and 'examples'.
  """

  def eval_step(variables, data, batch):
    batch = gather(data, batch)
    labels, mask = batch['label'], batch['mask']
    logits, _ = network(variables, batch['image'], train=False)
    sums = {
      'loss': (losses.cross_entropy(logits, labels) * mask).sum(),
      'wrong': ((logits.argmax(-1) != labels) * mask).sum(),
      'examples': mask.sum(),
    }
    return parallel.total(sums, replicas.axis_name)

  return eval_step
