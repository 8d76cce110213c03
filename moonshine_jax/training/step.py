"""The train step and the evaluation step: pure functions, written once, for one replica."""

from collections.abc import Callable, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from moonshine_jax import losses
from moonshine_jax.data import augment
from moonshine_jax.models.network import Network
from moonshine_jax.runtime import devices
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.training import packing
from moonshine_jax.training import terms as terms_lib

# The sums of an evaluation before its first batch: the cross entropy, wrong predictions, examples whose outputs are no
# logits but all from 0 to 1, and examples.
NO_EXAMPLES = {name: np.float32(0) for name in ('loss', 'wrong', 'probabilities', 'examples')}
DROPOUT = 2**31  # folded into a step's key for the random choices of the model: `augment` splits the key itself


class TrainState(flax.struct.PyTreeNode):
  """The state of a network in training: all that a step changes, and the key of its random choices.

  Attributes:
    step: steps done, int32.
    params: the model's parameters.
    batch_stats: BN's running statistics; {} for a model without any.
    opt_state: the optimiser's state.
    rng: a raw key; the random choices of a step follow from it and `step` alone.
    ema: moving average of the variables; {} where none is kept.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  rng: jax.Array
  ema: Any = flax.struct.field(default_factory=dict)

  @property
  def variables(self) -> dict[str, Any]:
    """The variables that the model is applied to."""
    return {
      'params': packing.unpack_trees(self.params),
      **({'batch_stats': packing.unpack_trees(self.batch_stats)} if self.batch_stats else {}),
    }

  @property
  def trees(self) -> dict[str, dict[str, Any]]:
    """The two trees of a checkpoint: the variables, and the progress of the training."""
    progress = {'step': self.step, 'opt_state': self.opt_state, 'rng': self.rng}
    return {'variables': self.variables, 'progress': progress | ({'ema': self.ema} if self.ema else {})}

  def with_trees(self, trees: dict[str, dict[str, Any]]) -> 'TrainState':
    """Returns the state with the arrays of other trees."""
    return self.replace(**trees['variables'], **trees['progress'])

  def with_ema(self) -> 'TrainState':
    """Returns the state with an average that begins at its variables, in float32 at least, else it would not move."""

    def begin(leaf: jax.Array) -> jax.Array:
      floating = jnp.issubdtype(leaf.dtype, jnp.floating)
      dtype = jnp.promote_types(leaf.dtype, jnp.float32) if floating else leaf.dtype
      return jnp.array(leaf, dtype)  # a copy: states are donated

    return self.replace(ema=jax.tree.map(begin, self.variables))

  def updated(
    self, tx: optax.GradientTransformation, grads: Any, batch_stats: Any, ema_decay: float = 0.0
  ) -> 'TrainState':
    """Returns the state after a step of the optimiser, with the running statistics of that step.

    An average forgets its beginning faster than by its decay at first: by min(decay, (1 + steps) / (10 + steps)).
    """
    changes, opt_state = tx.update(grads, self.opt_state, self.params)
    params = optax.apply_updates(self.params, changes)
    batch_stats = packing.pack_as(batch_stats, self.batch_stats)
    state = self.replace(step=self.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state)
    if not self.ema:
      return state
    decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
    variables = {'params': params, 'batch_stats': batch_stats}
    return state.replace(
      ema=optax.incremental_update({name: variables[name] for name in self.ema}, self.ema, 1 - decay)
    )


def model_key(state: TrainState, axis_name: str | None) -> jax.Array:
  """Returns the key of the random choices of the model, such as dropout, in a step on a replica."""
  key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
  return devices.replica_key(jax.random.fold_in(key, DROPOUT), axis_name)


def create_train_state(
  network: Network,
  image_shape: tuple[int, ...],
  tx: optax.GradientTransformation,
  init_key: jax.Array,
  step_key: jax.Array,
) -> TrainState:
  """Returns the state at step 0, with the keys of the initial parameters and of the steps."""
  variables = network.init(init_key, image_shape)
  rng = jnp.array(jax.random.key_data(step_key))  # a copy: states are donated, and several may be given one key
  return TrainState(
    jnp.zeros((), jnp.int32), variables['params'], variables.get('batch_stats', {}), tx.init(variables['params']), rng
  )


def make_train_step(
  configs: Sequence[ml_collections.ConfigDict],
  students: Sequence[Network],
  teacher: Network | None,
  txs: Sequence[optax.GradientTransformation],
  gather: Callable,
  replicas: Replicas,
  steps_per_epoch: int = 1,
  fill: Sequence[float] = (0.0,),
) -> Callable:
  """Makes the train step of one replica, for one or more students.

  All students see the same images and one forward pass of the teacher; each learns as if it were alone.

  Args:
    configs: config of each student; they may differ in `model`, `optimizer` and `distill`.
    students: network of each student.
    teacher: their teacher, or None.
    txs: optimiser of each student.
    gather: the feed's.
    replicas: the devices.
    steps_per_epoch: number of steps, in which the warm-up of a weight is counted.
    fill: the mean of each channel's pixels, with which Cutout fills.

  Returns:
    The step (states, teacher's variables, data, batch) -> (states, metrics), where `data` is the feed's and `batch` the
    replica's share.
  """
  updates = [
    make_update(config, student, teacher, tx, replicas.axis_name, steps_per_epoch)
    for config, student, tx in zip(configs, students, txs, strict=True)
  ]
  return join_updates(configs[0], updates, teacher, gather, replicas, fill)


def join_updates(
  config: ml_collections.ConfigDict,
  updates: Sequence[Callable],
  teacher: Callable | None,
  gather: Callable,
  replicas: Replicas,
  fill: Sequence[float] = (0.0,),
) -> Callable:
  """Makes the train step of one replica from the updates of its students; see `make_train_step`.

  Args:
    config: config of the run.
    updates: (state, images, labels, teacher's outputs) -> (state, metrics), of each student.
    teacher: their teacher, or None.
    gather: the feed's.
    replicas: the devices.
    fill: see `make_train_step`.
  """
  axis_name = replicas.axis_name

  def train_step(states: Any, teacher_variables: Any, data: Any, batch: Any) -> tuple[Any, ...]:
    batch = gather(data, batch)
    key = jax.random.fold_in(jax.random.wrap_key_data(states[0].rng), states[0].step)
    images, labels = augment.augment_batch(
      config.data, config.batch_size, key, batch['image'], batch['label'], fill, axis_name
    )
    targets = jax.lax.stop_gradient(teacher(teacher_variables, images, train=False)) if teacher else None
    results = [update(state, images, labels, targets) for update, state in zip(updates, states, strict=True)]
    return tuple(zip(*results, strict=True))

  return train_step


def make_update(
  config: ml_collections.ConfigDict,
  student: Network,
  teacher: Network | None,
  tx: optax.GradientTransformation,
  axis_name: str | None,
  steps_per_epoch: int = 1,
) -> Callable:
  """Makes the update of one student: (state, images, labels, teacher's outputs) -> (state, metrics).

  The loss is ce_weight CE + alpha KD + beta AT, ce_weight being 1 - alpha in the paper (equations 1 and 2); without a
  teacher it is CE. Of mixed images each term is the mixture of those against both labels. The metrics are means over
  the whole batch: 'loss'; its terms 'ce', 'kd' and 'at', without their weights, if they are used; 'error' in percent;
  and 'gradient_norm', the global L2 norm, which shows a gradient that is not finite.
  """
  distill = config.distill
  ce_weight, alpha, beta = terms_lib.weights(distill) if teacher else (1.0, 0.0, 0.0)
  kd_term = terms_lib.kd_term(distill, axis_name) if alpha else None
  at_term = terms_lib.at_term(distill, axis_name) if beta else None

  def update(
    state: TrainState, images: jax.Array, labels: jax.Array | augment.MixedLabels, targets: Any
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    rngs = model_key(state, axis_name)

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
      (logits, activations), updates = student(
        state.replace(params=params).variables, images, train=True, mutable=['batch_stats'], rngs=rngs
      )
      smoothing = config.data.label_smoothing
      terms = {'ce': terms_lib.of_labels(lambda y: losses.cross_entropy(logits, y, smoothing), labels).mean()}
      loss = ce_weight * terms['ce']
      if kd_term:
        terms['kd'] = terms_lib.of_labels(lambda y: kd_term(logits, targets[0], y), labels).mean()
        loss += terms_lib.warm_up(alpha, distill.kd_warmup, state.step, steps_per_epoch) * terms['kd']
      if at_term:
        terms['at'] = terms_lib.of_labels(lambda y: at_term(activations, targets[1], y), labels).mean()
        loss += terms_lib.warm_up(beta, distill.at_warmup, state.step, steps_per_epoch) * terms['at']
      metrics = {'loss': loss, **terms, 'error': 100 * terms_lib.are_wrong(logits, labels).mean()}
      return loss, (metrics, updates.get('batch_stats', {}))

    grads, (metrics, batch_stats) = packing.grad(loss_fn, state.params)
    with jax.named_scope('optimizer'):
      grads, metrics = devices.mean((grads, metrics), axis_name)
      metrics['gradient_norm'] = optax.tree.norm(grads)
      return state.updated(tx, grads, batch_stats, config.optimizer.ema), metrics

  return update


def compile_train_loop(train_step: Callable, replicas: Replicas) -> Callable:
  """Compiles the loop of `make_train_loop`, whose results take the memory of the states that it is given."""
  return replicas.compile(make_train_loop(train_step, replicas.platform), donate_argnums=(0,), loop=True)


def make_train_loop(train_step: Callable, platform: str) -> Callable:
  """Makes the loop of many steps in one dispatch: (states, teacher's variables, data, batches) -> (states, metrics).

  The batches and the metrics are those of the steps, stacked along a new first axis. On a GPU the states are packed
  within the loop: `training/packing.py` says why. The loop costs nothing on a CPU either, since no convolution of ours
  leaves its gradients to XLA: inside a loop XLA:CPU computes those naively (`ops/formulations.py`).
  """

  def train_loop(states: Any, teacher_variables: Any, data: Any, batches: Any) -> tuple[Any, Any]:
    if platform == 'gpu':
      states = tuple(packing.pack_trees(packing.pack_trees(state, state.params), state.batch_stats) for state in states)
    states, metrics = jax.lax.scan(
      lambda states, batch: train_step(states, teacher_variables, data, batch), states, batches
    )
    return packing.unpack_trees(states), metrics

  return train_loop


def make_eval_step(network: Network, gather: Callable, replicas: Replicas) -> Callable:
  """Makes the evaluation step of one replica: (variables, data, batch, sums) -> sums over the examples under the mask.

  The sums begin as NO_EXAMPLES and are added up on the devices: nothing is fetched before the end, and a step waits for
  the one before it. XLA's threads on a CPU may not be enough for the reductions of several steps at once.
  """

  def eval_step(variables: Any, data: Any, batch: Any, sums: Any) -> Any:
    batch = gather(data, batch)
    labels, mask = batch['label'], batch['mask']
    logits, _ = network(variables, batch['image'], train=False)
    batch_sums = {
      'loss': (losses.cross_entropy(logits, labels) * mask).sum(),
      'wrong': ((logits.argmax(-1) != labels) * mask).sum(),
      'probabilities': (((logits >= 0) & (logits <= 1)).all(-1) * (logits > 0).any(-1) * mask).sum(),
      'examples': mask.sum(),
    }
    return jax.tree.map(jnp.add, sums, devices.total(batch_sums, replicas.axis_name))

  return eval_step
