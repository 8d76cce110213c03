"""All of Table 4: the sweep of configs/table3.py on CIFAR-100.

  moonshine sweep --config=configs/table4.py --seeds=1 --out=runs/table4 --config.model.dtype=bfloat16

trains as many networks as configs/table3.py, and needs as much.
"""

import ml_collections

from moonshine_jax.configs import table3


def get_config() -> ml_collections.ConfigDict:
  """Returns the config of the teacher, and in distill.students the words of the students."""
  config = table3.get_config()
  config.data.name = 'cifar100'
  return config
