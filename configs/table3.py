"""All of Table 3: CIFAR-10, the teacher WRN-40-2 and the 25 students, as a sweep.

  python -m launch.sweep --config=configs/table3.py --seeds=1 --out=runs/table3 --config.model.dtype=bfloat16

trains 76 networks for each seed (the teacher once): the teacher, and every student by every regime. The students have
the depths and widths of the table, the reduced S networks their own. --blocks='G(N/8),B(2)' takes some of them,
--scale=0.05 rehearses all on a twentieth of the epochs and of the data, --dry_run prints the commands for a cluster.
What the paper got is in moonshine_jax/paper.py. Needs what configs/cifar10.py needs, many times.
"""

import ml_collections

from moonshine_jax import paper
from moonshine_jax.configs import cifar10


def get_config() -> ml_collections.ConfigDict:
  config = cifar10.get_config()
  config.distill.students = tuple(f'depth={row.depth} width={row.width} block={row.block}' for row in paper.TABLE_3[1:])
  return config
