"""Whether teacher, students and data fit together: found by tracing shapes, before anything is compiled."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from moonshine_jax import config as config_lib
from moonshine_jax.data import sources, splits
from moonshine_jax.errors import UserError, warn
from moonshine_jax.models import factory
from moonshine_jax.models.network import Network
from moonshine_jax.runtime import exchange
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.workdir import checkpoint


def load_teacher(
  config: ml_collections.ConfigDict,
  students: Collection[ml_collections.ConfigDict],
  source: sources.Source,
  replicas: Replicas,
) -> tuple[Network | None, Any]:
  """The teacher and its variables, or (None, {}) where no student needs it. Raises UserError for what does not fit.

  A network of a user's own is looked into, and so are any two of different kinds whose activations are to be compared.
  Of several processes the first alone reads the teacher.
  """
  targets, network, variables, of_network = (), None, {}, None
  if any(config_lib.regime(student) != 'none' for student in students):
    path = config.distill.teacher
    try:
      variables, metadata = exchange.from_first(lambda: checkpoint.Checkpoints(path).network()[1:], replicas)
      facts, network, of_network = metadata.facts, metadata.network, metadata.config.model.network
    except UserError as error:
      raise UserError(f'config.distill.teacher={path!r}: {error}') from error
    if (facts.num_classes, facts.image_shape) != (source.num_classes, source.image_shape):
      raise UserError(
        f'config.distill.teacher={path!r}: trained for {facts.num_classes} classes and images of {facts.image_shape}: '
        f'data set {config.data.name} has {source.num_classes} classes and images of {source.image_shape}'
      )
  told = set()
  for student in students:
    transfer = 'AT' in config_lib.regime(student)
    if not factory.is_user(student.model) and not (transfer and student.model.network != of_network):
      continue
    where = f'config.model.network={student.model.network!r}'
    found = activations(factory.create_network(student.model, plain_facts(source)), source, where)
    if transfer:
      targets = targets or activations(network, source, f'config.distill.teacher={config.distill.teacher!r}')
      check_activations(where, found, targets, told)
  return network, variables


def plain_facts(source: sources.Source) -> splits.Facts:
  """Returns facts of a data set with which a network normalises nothing: nothing of the data is read for them."""
  channels = source.image_shape[-1]
  return splits.Facts(source.image_shape, source.num_classes, (0.0,) * channels, (1.0,) * channels)


def activations(network: Network, source: sources.Source, where: str) -> tuple[jax.ShapeDtypeStruct, ...]:
  """The shapes of a network's activations for two images. Raises UserError where it cannot be trained."""
  variables = network.shapes(source.image_shape)
  images = jax.ShapeDtypeStruct((2, *source.image_shape), jnp.uint8)

  def run(variables, images, key):
    return network(variables, images, train=True, mutable=['batch_stats'], rngs=key)[0]

  try:
    logits, found = jax.eval_shape(run, variables, images, jax.random.key(0))
  except Exception as error:  # whatever the user's code raises
    raise UserError(
      f'{where}: cannot be trained on images of {source.image_shape}: {type(error).__name__}: '
      f'{str(error)[:500]}: expected a network for such images'
    ) from error
  if logits.shape != (2, source.num_classes):
    raise UserError(
      f'{where}: gives logits of the shape {logits.shape} for 2 images: expected '
      f'{(2, source.num_classes)}, of the {source.num_classes} classes of the data'
    )
  return found


def check_activations(
  where: str, found: Collection[jax.ShapeDtypeStruct], targets: Collection[jax.ShapeDtypeStruct], told: set[str]
) -> None:
  """Raises UserError where activations are not as many as the teacher's; warns, once, of maps that differ in size."""
  if len(found) != len(targets):
    raise UserError(
      f'{where} gives {len(found)} activations, the teacher {len(targets)}: attention transfer expects as many: a '
      'function may choose them, by returning moonshine_jax.with_capture(module, images, layers=...)'
    )
  for each, target in zip(found, targets, strict=True):
    size, other = (f'{height}x{width}' for height, width in (each.shape[1:3], target.shape[1:3]))
    line = f'an attention map of the student is {size}, of the teacher {other}: the larger is averaged to the smaller'
    if size != other and line not in told:
      told.add(line)
      warn(line)
