"""The handwritten digits that scikit-learn carries, 8x8 pixels: the whole method in minutes on a CPU.

  moonshine sweep --config=configs/digits.py --blocks='G(N/8)' --seeds=3 --out=runs/digits

trains the teacher WRN-16-1, then the student by every regime with every seed, and prints their table. The ten runs take
3 to 4 minutes on two CPU cores, compilation included. Expect a test error of 2% to 3% for the teacher and of 3% to
6% for the student.
"""

import ml_collections

from moonshine_jax.configs import cifar10


def get_config() -> ml_collections.ConfigDict:
  """Returns the config of the teacher."""
  config = cifar10.get_config()
  config.batch_size = 64
  config.epochs = 20
  config.steps_per_dispatch = 20  # an epoch
  config.checkpoint_every = 10
  config.model.depth = 16
  config.model.width = 1
  config.data.name = 'digits'
  config.data.pad = 1  # an eighth of the image, as 4 is of 32
  config.data.flip = False  # a mirrored digit is no digit
  config.optimizer.decay_epochs = (6, 12, 16)  # in proportion to the recipe's
  # The recipe's 1000, divided by 16: the released form takes the mean over the pixels of a map, and these maps, of 8x8
  # to 2x2 pixels, have a sixteenth of the pixels of CIFAR's.
  config.distill.beta = 62.5
  return config
