"""What the transforms of Flax around a layer let through: running statistics beside it, and its output.

A lifted transform (`nn.scan`, `nn.vmap`, `nn.WeightNorm`, `nn.map_variables`, ...) carries some collections of
variables, along some axis or along none, and may carry others in initialisation, where all are mutable, than in
training. So nothing is asked of a transform: the network is traced as it is initialised and then as it trains, while
the layers write into the collections, and what has come out was let through.
"""

import dataclasses
from collections.abc import Collection
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from moonshine_jax.models.surgery.inspection import Inspection
from moonshine_jax.models.surgery.intercept import CAPTURED
from moonshine_jax.models.surgery.tracing import Traceable

STATISTIC = 'moonshine_jax_statistic'  # stands for a running statistic, which depends on the batch
OUTPUT = f'{CAPTURED}_output'  # `capturing` empties its own collection

Probe = tuple[str, str]  # of a collection and the path of the module that writes into it


def probe_module(inspection: Inspection, module: nn.Module, *args: Any, **kwargs: Any) -> Inspection:
  """Returns the inspection of a module with what only the module in training can say.

  Args:
    inspection: of the module, by `inspect_module` with the same arguments.
    module: any linen module.
    *args: arguments of its call.
    **kwargs: further arguments of its call.

  Returns:
    The inspection, its `Call.can_be_taken` and `ConvLayer.has_batch_stats` set.
  """
  traceable = Traceable(module, args, kwargs)
  of_layers = {('batch_stats', call.path) for call in inspection.calls if call.layer}
  of_calls = {(OUTPUT, call.path) for call in inspection.calls}
  shapes = _let_through(traceable, sorted(of_layers | of_calls))
  calls = tuple(
    dataclasses.replace(call, can_be_taken=shapes.get((OUTPUT, call.path)) == call.output_shape)
    for call in inspection.calls
  )
  layers = tuple(
    dataclasses.replace(layer, has_batch_stats=('batch_stats', layer.path) in shapes) for layer in inspection.layers
  )
  return dataclasses.replace(inspection, calls=calls, layers=layers)


def _let_through(traceable: Traceable, probes: Collection[Probe]) -> dict[Probe, tuple[int, ...]]:
  """Returns the probes that come out, with the shapes of what was written. Raises what the network raises by itself."""
  try:
    return _trace(traceable, probes)
  except Exception:  # what a transform raises where it cannot carry what was written: it names no layer
    if not probes:
      raise
  if len(probes) == 1:
    _trace(traceable, ())
    return {}
  half, probes = len(probes) // 2, list(probes)
  return _let_through(traceable, probes[:half]) | _let_through(traceable, probes[half:])


def _trace(traceable: Traceable, probes: Collection[Probe]) -> dict[Probe, tuple[int, ...]]:
  """Traces the network as it is initialised and as it trains, with probes. Raises what it or a transform raises."""
  chosen = frozenset(probes)

  def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    outputs = call(*args, **kwargs)
    module, path = context.module, '/'.join(context.module.path)
    if context.method_name != '__call__' or not isinstance(outputs, jax.Array):
      return outputs
    if ('batch_stats', path) in chosen:
      value = jnp.zeros(()) if module.is_initializing() else outputs.astype(jnp.float32).sum()
      _write(module, 'batch_stats', STATISTIC, value)
    if (OUTPUT, path) in chosen and not module.is_initializing():
      _write(module, OUTPUT, OUTPUT, outputs)
    return outputs

  _, initial = traceable.init(intercept)
  variables = _without_probes(initial)  # so that a probe that comes out was written in training
  carried = {*variables, 'batch_stats', OUTPUT} - {'params'}
  _, updates = traceable.apply(intercept, variables, sorted(carried))
  written = flax.traverse_util.flatten_dict(updates, sep='/')
  found = {}
  for collection, path in chosen:
    name = STATISTIC if collection == 'batch_stats' else OUTPUT
    leaf = written.get('/'.join(filter(None, (collection, path, name))))
    if leaf is not None:
      found[collection, path] = leaf.shape
  return found


def _without_probes(variables: dict[str, Any]) -> dict[str, Any]:
  flat = flax.traverse_util.flatten_dict(variables)
  return flax.traverse_util.unflatten_dict({path: leaf for path, leaf in flat.items() if path[-1] != STATISTIC})


def _write(module: nn.Module, collection: str, name: str, value: jax.Array) -> None:
  module.sow(collection, name, value, reduce_fn=lambda _, new: new, init_fn=lambda: None)
