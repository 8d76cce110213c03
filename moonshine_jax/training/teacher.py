"""The teacher of a run, and whether it, the students and the data fit together: found before any compilation."""

import math
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from moonshine_jax import config as config_lib
from moonshine_jax import losses
from moonshine_jax.data import names, sources
from moonshine_jax.data.splits import CroppedSplit, Facts, Split
from moonshine_jax.errors import UserError, say, warn, warn_once
from moonshine_jax.models import factory, user
from moonshine_jax.models.network import Network
from moonshine_jax.runtime import exchange, user_functions
from moonshine_jax.runtime.devices import Replicas
from moonshine_jax.training.evaluation import evaluate_split
from moonshine_jax.training.user_losses import check_user_losses
from moonshine_jax.workdir.trained import Trained

FIT_ALL = (*losses.activations.MAP_FORMS, 'similarity')  # forms that take activations of any shapes


def load_teacher(
  students: Sequence[ml_collections.ConfigDict], source: sources.Source, replicas: Replicas, trust_code: bool = False
) -> Trained | None:
  """Returns the teacher of students, or None where no student needs it.

  In a run of several processes the first process alone reads it.

  Args:
    students: the students' configs, which have one teacher and one data set.
    source: the data set.
    replicas: the devices of all processes.
    trust_code: whether the function of a teacher's network is loaded, whatever it is: see `Trained.open`.

  Raises:
    UserError: where there is no teacher, or it is of other images or classes.
  """
  if all(config_lib.regime(student) == 'none' for student in students):
    return None
  path = students[0].distill.teacher
  where = f'config.distill.teacher={path!r}'
  try:
    teacher = exchange.from_first(lambda: Trained.open(path, trust_code), replicas)
  except UserError as error:
    raise UserError(f'{where}: {error}') from error
  facts = teacher.facts
  if (facts.num_classes, facts.image_shape) != (source.num_classes, source.image_shape):
    raise UserError(
      f'{where}: trained for {facts.num_classes} classes and images of {facts.image_shape}: '
      f'data set {students[0].data.name} has {source.num_classes} classes and images of {source.image_shape}'
    )
  if sorted(facts.classes) == sorted(source.classes) and facts.classes != tuple(source.classes):
    number = next(i for i, name in enumerate(facts.classes) if name != source.classes[i])
    raise UserError(
      f'{where}: trained for the classes in another order: class {number} is {facts.classes[number]!r}, in data set '
      f'{students[0].data.name} {source.classes[number]!r}: expected the same order'
    )
  return teacher


def compare_data(teacher: Trained, config: ml_collections.ConfigDict, facts: Facts) -> None:
  """Warns where the data of a run has the name of the teacher's, and is other data.

  Args:
    teacher: the teacher.
    config: of the run.
    facts: of the run's data.
  """
  theirs = teacher.config.data
  same = all(
    theirs[name] == config.data[name] for name in ('name', 'train_split', 'test_split', 'image_size', 'held_out')
  )
  if same and (difference := facts.difference(teacher.facts)) and exchange.is_first():
    warn(f'teacher {config.distill.teacher}: trained on other data than {config.data.name} is now: {difference}')


def tell_error(
  teacher: Trained,
  config: ml_collections.ConfigDict,
  test_split: Split | CroppedSplit,
  facts: Facts,
  replicas: Replicas,
) -> None:
  """Prints the test error of a teacher on the data of its students.

  It is the one that the teacher's workdir records, where that is of the same data; otherwise the teacher is evaluated.

  Args:
    teacher: the teacher.
    config: of the run.
    test_split: of the run's data.
    facts: of the run's data.
    replicas: the devices of all processes.
  """
  data = teacher.config.data
  same = all(data[name] == config.data[name] for name in ('name', 'test_split', 'image_size', 'held_out'))
  same = same and (not teacher.facts.test or teacher.facts.test == facts.test)
  error = exchange.from_first(lambda: teacher.test_error if same else None, replicas)
  if error is None:
    name = f'teacher {config.distill.teacher}'
    error = evaluate_split(teacher.network, teacher.variables, test_split, config, replicas, name)['test_error']
  if exchange.is_first():
    evaluated_on, data = sources.evaluated_on(config.data), names.title(config.data.name)
    say(f'teacher {config.distill.teacher}: {evaluated_on} error {error:.2f}% on {data}')
    doubt_error(error, teacher.facts.num_classes, len(test_split))


def doubt_error(error: float, num_classes: int, examples: int) -> None:
  """Warns of a trained network's test error, in percent, that is within two standard deviations of chance, or above."""
  right = 1 / num_classes
  deviation = math.sqrt(right * (1 - right) / examples)
  if num_classes > 1 and error >= 100 * (1 - right - 2 * deviation):
    warn_once(
      f'a test error of {error:.2f}% on {examples} images of {num_classes} classes is no better than chance '
      f'({100 * (1 - right):.2f}%): expected a trained network, whose classes are in the order of the data and whose '
      'images were normalised by the same mean and std'
    )


def check_students(
  students: Sequence[ml_collections.ConfigDict], teacher: Trained | None, source: sources.Source
) -> None:
  """Raises UserError where a student cannot be trained on the data, or compared with the teacher.

  Traces the networks of a user, and two networks whose activations are to be compared where they are of different
  kinds, or the form does not take any shapes: other networks are known to fit.
  """
  channels = source.image_shape[-1]
  facts = Facts(source.image_shape, source.num_classes, (0.0,) * channels, (1.0,) * channels)  # normalises nothing
  targets: Collection[jax.ShapeDtypeStruct] = ()
  warned: set[str] = set()
  for student in students:
    activations: Collection[jax.ShapeDtypeStruct] = ()
    regime = config_lib.regime(student)
    compared = teacher if 'AT' in regime else None
    same_kind = not compared or student.model.network == compared.config.model.network
    of_any_shape = not compared or student.distill.at_form in FIT_ALL
    if not (same_kind and of_any_shape) or factory.is_user_defined(student.model):
      where = f'config.model.network={student.model.network!r}'
      network = factory.create_network(student.model, facts)
      activations = activation_shapes(network, facts, where)
      if factory.is_user_defined(student.model):
        user.check_user_modes(where, network.model, facts.image_shape)
      if compared:
        targets = targets or activation_shapes(
          compared.network, facts, f'config.distill.teacher={student.distill.teacher!r}'
        )
        check_activations(where, student.distill.at_form, activations, targets, warned)
    check_user_losses(student.distill, regime, facts.num_classes, tuple(activations), tuple(targets))


def activation_shapes(network: Network, facts: Facts, where: str) -> tuple[jax.ShapeDtypeStruct, ...]:
  """Returns the shapes of a network's activations for two images. Raises UserError where it cannot be trained."""
  variables = network.shapes(facts.image_shape)
  images = jax.ShapeDtypeStruct((2, *facts.image_shape), jnp.uint8)

  def run(variables: Any, images: Any, key: Any) -> Any:
    return network(variables, images, train=True, mutable=['batch_stats'], rngs=key)[0]

  try:
    logits, activations = jax.eval_shape(run, variables, images, jax.random.key(0))
  except Exception as error:  # whatever the user's code raises
    raise UserError(
      f'{where}: cannot be trained on images of {facts.image_shape}: {type(error).__name__}: '
      f'{str(error)[:500]}: expected a network for such images'
    ) from error
  if logits.shape != (2, facts.num_classes):
    raise UserError(
      f'{where}: gives logits of the shape {logits.shape} for 2 images: expected '
      f'{(2, facts.num_classes)}, of the {facts.num_classes} classes of the data'
    )
  return activations


def check_activations(
  where: str,
  form: str,
  activations: Collection[jax.ShapeDtypeStruct],
  targets: Collection[jax.ShapeDtypeStruct],
  warned: set[str],
) -> None:
  """Compares the shapes of a student's activations with the teacher's.

  Args:
    where: the student, in an error.
    form: `config.distill.at_form`.
    activations: shapes of the student's.
    targets: shapes of the teacher's.
    warned: the warnings that were printed already; a map of another size adds one.

  Raises:
    UserError: where they are not as many, or of other shapes than the form compares.
  """
  if len(activations) != len(targets) and not user_functions.is_name(form):
    raise UserError(
      f'{where} gives {len(activations)} activations, the teacher {len(targets)}: attention transfer expects as many: '
      'a function may choose them, by returning moonshine_jax.with_capture(module, images, layers=...)'
    )
  for activation, target in zip(activations, targets, strict=False):
    if form == 'nmse' and activation.shape != target.shape:
      raise UserError(
        f"config.distill.at_form='nmse': an activation of the student is {_shown_shape(activation)}, of the teacher "
        f'{_shown_shape(target)}: expected equal shapes, as of the same network with other blocks, or a form that '
        f'takes any: {", ".join(FIT_ALL)}'
      )
    if form not in losses.activations.MAP_FORMS:
      continue
    size, target_size = (f'{height}x{width}' for height, width in (activation.shape[1:3], target.shape[1:3]))
    warning = (
      f'an attention map of the student is {size}, of the teacher {target_size}: the larger is averaged to the smaller'
    )
    if size != target_size and warning not in warned:
      warned.add(warning)
      warn(warning)


def _shown_shape(activation: jax.ShapeDtypeStruct) -> str:
  return 'x'.join(map(str, activation.shape[1:]))
