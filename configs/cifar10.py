r"""CIFAR-10 with the paper's recipe (section 4.1): the teacher WRN-40-2, and what changes for a student.

  moonshine train --config=configs/cifar10.py --workdir=runs/teacher

trains the teacher. The paper's error is 4.79%. A student with cheap blocks is distilled from it by attention transfer

  moonshine train --config=configs/cifar10.py --workdir=runs/student \
      --config.model.block='G(N/8)' --config.distill.teacher=runs/teacher --config.distill.alpha=0

(paper 5.06%), by knowledge distillation with --config.distill.beta=0 in place of alpha (paper 5.61%), by both with
neither, and trained without distillation when no teacher is named (paper 6.07%).

Every field, with what it means and the values that it may have, is in moonshine_jax/fields.py; the defaults there are
this recipe. Each is a flag: --config.epochs=20, --config.optimizer.decay_epochs='(6,12,16)'.

Needs: an accelerator for the 200 epochs (327,599,360 multiply-adds an image for the teacher's forward pass; on a CPU an
epoch takes about 13 minutes on two cores). On a GPU or TPU also set --config.model.dtype=bfloat16.
"""

import ml_collections

from moonshine_jax.config import create_config


def get_config() -> ml_collections.ConfigDict:
  """Returns the config of the teacher."""
  config = create_config()
  config.data.name = 'cifar10'
  config.model.depth = 40
  config.model.width = 2
  return config
