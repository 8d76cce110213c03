"""Moonshine JAX: distil trained convolutional networks into students with cheap convolutions."""

import importlib

# What is used as `moonshine_jax.NAME`, and where it is; loaded when first used, since JAX takes seconds to load.
_NAMES = {
  'cheapen': 'substitution',
  'plan': 'substitution',
  'inherit': 'substitution',
  'with_capture': 'capture',
  'distil': 'distillation',
}


def __getattr__(name):
  if name not in _NAMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_NAMES[name]}'), name)
