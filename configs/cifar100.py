"""CIFAR-100 with the paper's recipe: the config of configs/cifar10.py with other data, of 100 classes.

  moonshine train --config=configs/cifar100.py --workdir=runs/teacher100

The paper's errors: teacher 23.85%; student G(N/8) 27.85% alone, 27.05% by knowledge distillation, 26.15% by attention
transfer. It needs what configs/cifar10.py needs.
"""

import ml_collections

from moonshine_jax.configs import cifar10


def get_config() -> ml_collections.ConfigDict:
  """Returns the config of the teacher."""
  config = cifar10.get_config()
  config.data.name = 'cifar100'
  return config
