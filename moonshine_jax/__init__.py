"""Moonshine JAX: distil trained convolutional networks into students with cheap convolutions."""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from moonshine_jax.api import distil
  from moonshine_jax.models.surgery.capture import with_capture
  from moonshine_jax.models.surgery.replace import cheapen, inherit, plan
  from moonshine_jax.ops.derivatives import forward_mode
  from moonshine_jax.search.run import search_blocks

__version__ = '0.1.0'
__all__ = ['__version__', 'cheapen', 'distil', 'forward_mode', 'inherit', 'plan', 'search_blocks', 'with_capture']

# Kernels are loaded as CUDA starts, not each at its first launch: that may be into a CUDA graph that is being recorded,
# where on an H200 kernels of cuDNN could not be loaded. CUDA reads this once, at its start, which is the first use of
# JAX. What the user has set holds.
os.environ.setdefault('CUDA_MODULE_LOADING', 'EAGER')

# The module of each public function: loaded when the function is first used, since JAX takes seconds to load.
_MODULES = {
  'cheapen': 'models.surgery.replace',
  'distil': 'api',
  'forward_mode': 'ops.derivatives',
  'inherit': 'models.surgery.replace',
  'plan': 'models.surgery.replace',
  'search_blocks': 'search.run',
  'with_capture': 'models.surgery.capture',
}


def __getattr__(name: str) -> Any:
  if name not in _MODULES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_MODULES[name]}'), name)


def __dir__() -> list[str]:
  return __all__
