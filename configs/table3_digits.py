"""The rows of Table 3 on the handwritten digits, smaller: the whole sweep on a CPU.

  moonshine sweep --config=configs/table3_digits.py --seeds=1 --out=runs/table3_digits

trains 76 networks in less than an hour on two cores. --scale=0.25 takes less time: a rehearsal, labelled as one, on a
quarter of the epochs and of the images. The depths 40 and 16 become 16 and 10, so the teacher is WRN-16-2. The widths
stay, since 16 groups need them. The sweep shows that every row trains and is counted; on images of 8x8 pixels it says
nothing about the method.
"""

import ml_collections

from moonshine_jax import paper
from moonshine_jax.configs import digits

DEPTHS = {40: 16, 16: 10}


def get_config() -> ml_collections.ConfigDict:
  """Returns the config of the teacher, and in distill.students the words of the students."""
  config = digits.get_config()
  config.model.width = 2
  config.distill.students = tuple(
    f'depth={DEPTHS[row.depth]} width={row.width} block={row.block}' for row in paper.TABLE_3[1:]
  )
  return config
