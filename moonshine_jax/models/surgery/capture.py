"""Any linen image classifier as the train step needs it: called with (images, train), returning what AT compares."""

import difflib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from moonshine_jax.errors import UserError
from moonshine_jax.models.surgery import modes
from moonshine_jax.models.surgery.cheap import Cheap
from moonshine_jax.models.surgery.inspection import Inspection, inspect_module
from moonshine_jax.models.surgery.intercept import Unbound, adapt, capturing
from moonshine_jax.models.surgery.layers import Call
from moonshine_jax.models.surgery.modes import mode_arguments
from moonshine_jax.models.surgery.probe import probe_module


class Captured(nn.Module):
  """A classifier that returns its logits and the outputs of some of its layers; it must not be part of a module.

  Attributes:
    original: the classifier.
    layers: paths of the modules whose outputs are returned; for each module that of its last call.
    call: a function (bound module, images, train) -> what the module returns, or None where its signature says enough.
    axis_name: the pmapped axis over which BN takes its batch statistics, or None; see `intercept.adapt`.
  """

  original: Unbound
  layers: tuple[str, ...]
  call: Callable[[nn.Module, jax.Array, bool], Any] | None = None
  axis_name: str | None = None

  def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """(batch, height, width, channels) -> float32 logits (batch, classes) and the activations (batch, ...)."""
    original = self.original.bind(self, f'{self.layers} {self.axis_name}', captures=True)
    captured: dict[str, Any] = {}
    with nn.intercept_methods(adapt(self.axis_name)), capturing(original, self.layers, captured):
      outputs = (self.call or call_in_mode)(original, images, train)
    return _logits(outputs), tuple(captured[layer] for layer in self.layers)


def with_capture(
  module: nn.Module,
  images: jax.Array | jax.ShapeDtypeStruct,
  layers: Sequence[str] | None = None,
  call: Callable[[nn.Module, jax.Array, bool], Any] | None = None,
  axis_name: str | None = None,
) -> Captured:
  """Makes a classifier return (logits, activations), with the same variables.

  A student of `cheapen` has the teacher's paths, and so the teacher's layers, whether they are named or found.

  Args:
    module: any linen image classifier. It returns logits, or a tuple that begins with them, or something that has them
      as 'logits'. The arguments of its call that are called as in `modes.FLAGS`, or `mode`, tell it whether it
      trains.
    images: a batch of examples as the module's call (or `call`) takes it.
    layers: paths of modules that return (batch, height, width, channels). Without them, of each size of image above 1x1
      the last output of a module that contains a convolution other than the first one, but of no part of a block that
      goes from this size to another; where there is no such module, the last convolution's.
    call: a function (bound module, images, train) -> what the module returns, for a module with another signature.
    axis_name: the pmapped axis over which BN takes its batch statistics.

  Raises:
    UserError: where there are no such layers, their outputs cannot be taken out, or what comes back is no logits.
  """
  bare = Captured(Unbound(module), (), call)  # traced outside of any pmapped axis
  inspection = probe_module(inspect_module(bare, images), bare, images)
  if layers is None:
    layers = find_layers(inspection)
    if not layers:
      raise UserError(f'{type(module).__name__}: no output of a module with convolutions is an image: name the layers')
  last_calls = {call.path: call for call in inspection.calls}
  for layer in layers:
    if layer not in last_calls:
      near = difflib.get_close_matches(layer, last_calls, 3, 0) or ['another']
      raise UserError(f'{layer!r} is no module that returns an array: expected one such as {", ".join(near)}')
    if not last_calls[layer].can_be_taken:
      raise UserError(
        f'{layer!r} is inside a transform (nn.scan, nn.vmap, nn.WeightNorm, ...) out of which its output does not '
        'come: expected a module around it'
      )
    if len(last_calls[layer].output_shape) != 4:
      raise UserError(f'{layer!r} returns {last_calls[layer].output_shape}: expected (batch, height, width, channels)')
  return bare.clone(layers=tuple(layers), axis_name=axis_name)


def find_layers(inspection: Inspection) -> tuple[str, ...]:
  """Finds the layers that `with_capture` takes by default: their paths, in the order in which they run."""
  convolutions = {call.path for call in inspection.calls if call.layer}
  # The parts of a replacement are inside the convolution that they replace, and count as that one.
  convolutions -= {path for path in convolutions if any(_inside(path, outer) for outer in convolutions)}
  later = convolutions - {layer.path for layer in inspection.layers if layer.is_stem}

  def has_convolution(path: str) -> bool:
    return path in later or any(_inside(conv, path) for conv in later)

  # A wrapper as nn.WeightNorm is beside its module, and returns the output that does not come out of the module.
  wrappers = {
    wrapper.path
    for call, wrapper in itertools.pairwise(inspection.calls)
    if has_convolution(call.path) and not call.can_be_taken and wrapper.output_shape == call.output_shape
  }
  last = {
    call.path: (order, call)
    for order, call in enumerate(inspection.calls)
    if call.path and not any(_inside(call.path, convolution) for convolution in convolutions)
  }
  blocks = [
    call
    for _, call in last.values()
    if len(call.output_shape) == 4 and sum(_inside(path, call.path) for path in convolutions) > 1
  ]

  def is_part(call: Call) -> bool:
    """Whether a call is inside the innermost block that goes from its size to another, after the last of its size."""
    changing = [block.path for block in blocks if block.input_shape[1:3] == _size(call) != block.output_shape[1:3]]
    around = [path for path in changing if _inside(call.path, path)]
    return bool(around) and not any(_inside(path, max(around, key=len)) for path in changing)

  # (whether it contains convolutions, its place in the order, its path)
  best_by_size: dict[tuple[int, ...], tuple[bool, int, str]] = {}
  for order, call in last.values():
    has_output = has_convolution(call.path) or call.path in wrappers
    if _size(call) and call.can_be_taken and has_output and not is_part(call):
      candidate = (call.path not in later, order, call.path)
      best_by_size[_size(call)] = max(best_by_size.get(_size(call), candidate), candidate)
  return tuple(path for _, path in sorted((order, path) for _, order, path in best_by_size.values()))


def _size(call: Call) -> tuple[int, ...]:
  """Returns height and width of the image that a call returned; () where it is no image, or one pixel."""
  size = call.output_shape[1:3] if len(call.output_shape) == 4 else ()
  return () if size == (1, 1) else size


def _inside(path: str, outer: str) -> bool:
  return path.startswith(f'{outer}/')


def call_in_mode(module: nn.Module, images: jax.Array, train: bool) -> Any:
  """Calls a bound module with the arguments that tell it whether it trains. Raises UserError for an attribute."""
  inner = module
  while isinstance(inner, Cheap):
    inner = inner.original.module
  arguments = mode_arguments(inner, train)
  fixed = [name for name in modes.FLAGS if not arguments and isinstance(getattr(inner, name, None), bool)]
  if fixed:
    raise UserError(
      f'{type(inner).__name__}: {fixed[0]} is an attribute of it: expected an argument of its call, which a module '
      f'around it may have, or {modes.CALL}'
    )
  return module(images, **arguments)


def _logits(outputs: Any) -> jax.Array:
  """Returns the logits in what a module returned. Raises UserError where there are none."""
  if isinstance(outputs, dict):
    logits = outputs.get('logits')
  elif isinstance(outputs, tuple | list):
    logits = outputs[0] if outputs else None
  else:
    logits = getattr(outputs, 'logits', outputs)
  if not isinstance(logits, jax.Array) or logits.ndim != 2:
    what = f'an array {logits.shape}' if isinstance(logits, jax.Array) else type(outputs).__name__
    raise UserError(
      f'the module returns {what}: expected logits (batch, classes), alone, first in a tuple or as .logits'
    )
  return logits.astype(jnp.float32)
