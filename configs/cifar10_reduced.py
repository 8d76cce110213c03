r"""CIFAR-10 reduced to an hour on a CPU: WRN-16-1, 10,000 training images, 5 epochs. Not the paper's result.

  moonshine sweep --config=configs/cifar10_reduced.py --seeds=1 --out=runs/cifar10_reduced
  moonshine sweep --config=configs/cifar10_reduced.py --seeds=3 --out=runs/cifar10_reduced --blocks='G(N/8)'
  moonshine sweep --config=configs/cifar10_reduced.py --seeds=3 --out=runs/cifar10_reduced --blocks='G(N/8)' \
      --regimes=KD --kd_forms=equation,hinton

trains the teacher and three students by every regime: G(N/8) with three seeds, and also by the other forms of KD. The
test error is of all 10,000 test images. A teacher of so few steps has little to teach. The runs show that the whole
path works on real images, and in which direction the forms of the loss differ.
"""

import ml_collections

from moonshine_jax.configs import cifar10


def get_config() -> ml_collections.ConfigDict:
  """Returns the config of the teacher, and in distill.students the words of the students."""
  config = cifar10.get_config()
  config.epochs = 5
  config.model.depth = 16
  config.model.width = 1
  config.data.train_split = 'train[:10000]'
  config.optimizer.decay_epochs = (2, 3, 4)  # in proportion to the recipe's
  config.distill.students = ('block=G(N/8)', 'block=S-2x2', 'block=B(2)')
  return config
