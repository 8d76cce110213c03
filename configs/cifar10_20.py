"""CIFAR-10 in 20 epochs with networks that a CPU can train: the teacher WRN-16-1 and four kinds of student.

  moonshine sweep --config=configs/cifar10_20.py --seeds=1 --out=runs/cifar10_20

trains the teacher on all 50,000 images, then every student by every regime. The recipe is the paper's (section 4.1),
with its 200 epochs and the decays of its learning rate scaled down in proportion; KD is in the form of Hinton et al.
B(2), G(N/8) and S-2x2 are the teacher with other blocks. WRN-10-1 is a reduced architecture, with which the paper
compares them. Two CPU cores take about an hour for the teacher, and two and a half for three students of G(N/8) that
share its forward passes.
"""

import ml_collections

from moonshine_jax.configs import cifar10


def get_config() -> ml_collections.ConfigDict:
  """Returns the config of the teacher, and in distill.students the words of the students."""
  config = cifar10.get_config()
  config.epochs = 20
  config.checkpoint_every = 1
  config.model.depth = 16
  config.model.width = 1
  config.optimizer.decay_epochs = (6, 12, 16)
  config.distill.kd_form = 'hinton'
  config.distill.students = ('block=G(N/8)', 'block=B(2)', 'depth=10 block=S', 'block=S-2x2')
  return config
