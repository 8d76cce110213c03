r"""ImageNet with the recipe of its ResNets (He et al., 2016; 90 epochs): the teacher ResNet-18, and cheap students.

  moonshine train --config=configs/imagenet.py --workdir=runs/teacher --config.model.dtype=bfloat16

trains the teacher, or a ResNet-50 with --config.model.depth=50. A student with cheap blocks is distilled from it by
attention transfer over the outputs of the four stages:

  moonshine train --config=configs/imagenet.py --workdir=runs/student --config.model.dtype=bfloat16 \
      --config.model.block='G(N/8)' --config.distill.teacher=runs/teacher --config.distill.alpha=0

moonshine_jax/models/resnet.py says what each notation makes of a residual block. With this recipe, torchvision's
networks have an error of 30.24% (ResNet-18) and 23.87% (ResNet-50) on the 50,000 validation images. The config has not
been run on ImageNet here, and the weights of distillation are CIFAR's, not tuned for ImageNet.

Needs: imagenet2012 prepared by TFDS as array_record (TFDS says which two archives to download by hand, and where to put
them), an accelerator, and the CPU cores to feed it: `python -m benchmarks.image_feed` measures how many images a second
a core decodes. --config.data.name=NAME takes another TFDS data set of labelled images of any size; its splits are
config.data.train_split and config.data.test_split.
"""

import ml_collections

from moonshine_jax.configs import cifar10


def get_config() -> ml_collections.ConfigDict:
  """Returns the config of the teacher."""
  config = cifar10.get_config()
  config.batch_size = 256
  config.epochs = 90
  config.checkpoint_every = 1
  config.model.network = 'resnet'
  config.model.depth = 18  # 18, 34 or 50
  config.model.width = 1
  config.data.name = 'imagenet2012'
  config.data.test_split = 'validation'
  config.data.feed = 'stream'
  config.data.image_size = 224
  config.data.pad = 0
  config.optimizer.weight_decay = 1e-4
  config.optimizer.decay_factor = 0.1
  config.optimizer.decay_epochs = (30, 60, 80)
  return config
