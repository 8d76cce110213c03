"""All of Table 3: CIFAR-10, the teacher WRN-40-2 and the 25 students, as a sweep.

  moonshine sweep --config=configs/table3.py --seeds=1 --out=runs/table3 --config.model.dtype=bfloat16

trains the teacher, and every student by every regime: 76 networks with one seed, 75 more with each further seed. The
depths and widths are those of the table, where the reduced S networks have others than the teacher.
--blocks='G(N/8),B(2)' takes some of the students, --scale=0.05 rehearses all on a twentieth of the epochs and of the
data, and --dry_run prints the commands for a cluster. The paper's results are in moonshine_jax/paper.py. It needs what
configs/cifar10.py needs, many times.
"""

import ml_collections

from moonshine_jax import paper
from moonshine_jax.configs import cifar10


def get_config() -> ml_collections.ConfigDict:
  """Returns the config of the teacher, and in distill.students the words of the students."""
  config = cifar10.get_config()
  config.distill.students = tuple(f'depth={row.depth} width={row.width} block={row.block}' for row in paper.TABLE_3[1:])
  return config
