"""Training and evaluation of a module that this project did not write: how it is told which it is, and does it listen.

A network that is not told trains with the running statistics that it began with, or without dropout, and nothing else
shows it. So a network is traced in both modes before it is trained: in training its running statistics must change and
its dropout must drop; in evaluation neither.
"""

import dataclasses
import inspect
import typing
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
from flax import errors as flax_errors

from moonshine_jax.errors import UserError
from moonshine_jax.models.blocks import BatchNormReLU
from moonshine_jax.models.surgery.intercept import Unbound
from moonshine_jax.models.surgery.tracing import Traceable

# Names of an argument that says which mode it is, with its value in training.
FLAGS = {
  **dict.fromkeys(('train', 'training', 'is_train', 'is_training', 'train_mode', 'training_mode'), True),
  **dict.fromkeys(('deterministic', 'use_running_average', 'use_running_stats', 'inference', 'is_inference'), False),
  **dict.fromkeys(
    ('eval', 'is_eval', 'evaluate', 'evaluation', 'eval_mode', 'inference_mode', 'test', 'is_test'), False
  ),
}
MODE = 'mode'  # the name of an argument that says it by a word
TRAINING_WORDS, EVALUATION_WORDS = ('train', 'training'), ('eval', 'evaluation', 'test', 'inference', 'infer', 'val')
CALL = 'with_capture(module, images, call=lambda module, images, train: ...)'


def mode_arguments(module: nn.Module, train: bool) -> dict[str, Any]:
  """Returns the keyword arguments that tell a module's call which mode it is: all that the call has.

  Args:
    module: any linen module.
    train: whether it trains.
  """
  arguments: dict[str, Any] = {}
  for name, parameter in inspect.signature(type(module).__call__).parameters.items():
    has_default = parameter.default is not parameter.empty
    if name in FLAGS and (not has_default or isinstance(parameter.default, bool | None)):
      arguments[name] = train == FLAGS[name]
    elif name == MODE and (words := _mode_words(type(module), parameter)):
      arguments[name] = next((word for word in words if (word in TRAINING_WORDS) == train), None)
  return {name: value for name, value in arguments.items() if value is not None}


def _mode_words(module_class: type[nn.Module], parameter: inspect.Parameter) -> tuple[Any, ...]:
  """Returns the words that an argument called 'mode' may be: those of its annotation, or its default and usual ones."""
  annotation = parameter.annotation
  if isinstance(annotation, str):  # from __future__ import annotations
    try:
      annotation = typing.get_type_hints(module_class.__call__).get(parameter.name)
    except NameError:  # of a type that is imported for the type checker alone
      annotation = None
  if typing.get_origin(annotation) is typing.Literal:
    words = typing.get_args(annotation)
    return words if set(words) & set(TRAINING_WORDS) else ()
  usual = (*TRAINING_WORDS, *EVALUATION_WORDS)
  if parameter.default is parameter.empty:
    return usual
  return (parameter.default, *usual) if parameter.default in usual else ()  # () for another kind of mode


@dataclasses.dataclass
class _Listener:
  """Notes, while a network is traced, which modules' statistics change and which dropouts drop.

  Attributes:
    changes: whether the statistics of a module change, by the module's path.
    drops: whether a dropout drops, by its path.
  """

  changes: dict[str, bool] = dataclasses.field(default_factory=dict)
  drops: dict[str, bool] = dataclasses.field(default_factory=dict)

  def intercept(self, call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    """An interceptor for `nn.intercept_methods`."""
    module, path = context.module, '/'.join(context.module.path) or type(context.module).__name__
    before = _own_statistics(module)
    outputs = call(*args, **kwargs)
    # The BN of what replaces a convolution hears of training by other means.
    is_ours = isinstance(module, BatchNormReLU) and isinstance(module.parent, nn.Conv)
    if (after := _own_statistics(module)) and not is_ours:
      changed = any(after[name] is not before.get(name) for name in after)
      self.changes[path] = self.changes.get(path, False) or changed
    if isinstance(module, nn.Dropout) and module.rate and context.method_name == '__call__':
      inputs = args[0] if args else kwargs['inputs']
      self.drops[path] = self.drops.get(path, False) or outputs is not inputs
    return outputs


def _own_statistics(module: nn.Module) -> dict[str, Any]:
  """Returns the arrays of 'batch_stats' that are a module's own, not of its submodules."""
  statistics = module.variables.get('batch_stats', {}) if module.scope else {}
  return {name: leaf for name, leaf in statistics.items() if not isinstance(leaf, Mapping)}


def check_modes(model: nn.Module, images: jax.ShapeDtypeStruct) -> tuple[str, ...]:
  """Traces a network in training and in evaluation, and compares what changes with what should.

  Args:
    model: a network that is called with (images, train), as `with_capture` returns.
    images: a batch of examples.

  Returns:
    What may be meant, in words, a line each: some of the statistics do not change in training, or none do by a `call`
    that the user wrote; evaluation reads none of them.

  Raises:
    UserError: where training changes no running statistics or no dropout drops, though the network has them, and where
      evaluation changes statistics, or wants a key for random choices.
  """
  training, evaluation = (Traceable(model, (images,), {'train': train}) for train in (True, False))
  _, variables = training.init(lambda call, args, kwargs, context: call(*args, **kwargs))
  _check_evaluation(evaluation, variables)
  trained = _Listener()
  training.apply(trained.intercept, variables, mutable=['batch_stats'])
  doubts = []
  if variables.get('batch_stats') and not evaluation.reads(variables, 'batch_stats'):
    doubts.append('evaluation computes with none of the running statistics: its BN may take those of each batch')
  for heard, what in ((trained.changes, 'leaves running statistics as they are'), (trained.drops, 'drops nothing')):
    if deaf := [path for path, hears in heard.items() if not hears]:
      line = f'training {what} in {_names(deaf)}'
      original, is_called_by_user = _original(model)
      if len(deaf) == len(heard) and not is_called_by_user:
        raise UserError(f'{line}: {_remedy(original)}; where that is meant, return {CALL}')
      doubts.append(line)
  return tuple(doubts)


def _check_evaluation(evaluation: Traceable, variables: dict[str, Any]) -> None:
  """Raises UserError where evaluation changes statistics, or asks for a key for random choices."""
  try:
    evaluation.apply(_Listener().intercept, variables, has_rngs=False)
  except (flax_errors.ModifyScopeVariableError, flax_errors.InvalidRngError) as error:
    heard = _Listener()
    evaluation.apply(heard.intercept, variables, mutable=['batch_stats'])
    changed, dropped = ([path for path, hears in paths.items() if hears] for paths in (heard.changes, heard.drops))
    if isinstance(error, flax_errors.ModifyScopeVariableError):
      what = f'evaluation changes the running statistics of {_names(changed)}: expected nn.BatchNorm'
      raise UserError(f'{what}(use_running_average=not train), where train is an argument of the call') from error
    what = f'evaluation makes random choices, in {_names(dropped) or "a layer"}: expected nn.Dropout'
    raise UserError(f'{what}(deterministic=not train), where train is an argument of the call') from error


def _original(model: nn.Module) -> tuple[nn.Module, bool]:
  """Returns the user's module inside the wrappers of this package, and whether the user wrote how it is called."""
  is_called_by_user = False
  while isinstance(getattr(model, 'original', None), Unbound):
    is_called_by_user |= getattr(model, 'call', None) is not None
    model = model.original.module
  return model, is_called_by_user


def _remedy(module: nn.Module) -> str:
  """Returns what would tell a module that it trains."""
  parameters = inspect.signature(type(module).__call__).parameters.values()
  name = type(module).__name__
  if arguments := mode_arguments(module, train=True):
    told = ', '.join(f'{argument}={value!r}' for argument, value in arguments.items())
    return f'{name} is called with {told}: expected BN and dropout that are given it'
  if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
    return f'{name} is called with images alone, as its call takes any keyword: expected an argument train by name'
  return f'nothing tells {name} that it trains: expected an argument train of its call, given to BN and dropout'


def _names(paths: list[str]) -> str:
  return ', '.join(paths[:4]) + (f' and {len(paths) - 4} more' if len(paths) > 4 else '')
