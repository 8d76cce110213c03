"""CIFAR-10 with the paper's recipe (section 4.1): the teacher WRN-40-2, and what changes for a student.

  python -m moonshine_jax.main --config=configs/cifar10.py --workdir=runs/teacher

trains the teacher. The paper's error is 4.79%. A student with cheap blocks is distilled from it by attention transfer

  python -m moonshine_jax.main --config=configs/cifar10.py --workdir=runs/student \
      --config.model.block='G(N/8)' --config.distill.teacher=runs/teacher --config.distill.alpha=0

(paper 5.06%), by knowledge distillation with --config.distill.beta=0 in place of alpha (paper 5.61%), by both with
neither, and trained without distillation when no teacher is named (paper 6.07%).

Needs: an accelerator for the 200 epochs (327,599,360 multiply-adds an image for the teacher's forward pass; on a CPU an
epoch takes about 13 minutes on two cores). On a GPU or TPU also set --config.model.dtype=bfloat16.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict()
  config.seed = 0  # of the order of the examples and their augmentation
  config.batch_size = 128  # in all, over all devices
  config.epochs = 200
  # Steps that the device runs without hearing from the host (resident feed); the 390 of an epoch are 10 times 39.
  config.steps_per_dispatch = 39
  config.eval_every = 1  # epochs
  config.checkpoint_every = 5  # epochs

  config.model = ml_collections.ConfigDict()
  config.model.seed = 0  # of the initial parameters
  # Or a function of yours that returns a linen module, 'package.module:function' or 'path/file.py:function': depth and
  # width are not for it, and block is the rule by which its convolutions are replaced (S: none).
  config.model.network = 'wide_resnet'
  config.model.depth = 40
  config.model.width = 2
  # One notation for the network; three, separated by commas, for its groups; or one for every block.
  config.model.block = 'S'
  config.model.dtype = 'float32'  # of the computation: float32 or bfloat16

  config.data = ml_collections.ConfigDict()
  config.data.name = 'cifar10'  # of TFDS, or digits, or a function of yours that returns arrays
  config.data.data_dir = ''  # where TFDS's data is, or goes; empty for ~/tensorflow_datasets
  config.data.train_split = 'train'  # or a part of it, as TFDS writes one: train[:50%]
  config.data.test_split = 'test'
  config.data.feed = 'resident'  # the data set on the device; or stream, from the host
  # 0 for images of one size; else they are of any, and cropped to this many pixels on a side as they are read.
  config.data.image_size = 0
  config.data.pad = 4  # pixels on each side, before the random crop
  config.data.flip = True

  config.optimizer = ml_collections.ConfigDict()
  config.optimizer.learning_rate = 0.1
  config.optimizer.momentum = 0.9
  config.optimizer.weight_decay = 5e-4  # on every parameter
  config.optimizer.decay_factor = 0.2
  config.optimizer.decay_epochs = (60, 120, 160)

  config.distill = ml_collections.ConfigDict()
  config.distill.teacher = ''  # the teacher's workdir; empty for no distillation
  # Several students in one run, from one forward pass of the teacher a step, each in a folder of its own in the
  # workdir: ('block=G(N/8) alpha=0', 'block=BG(2,M/8) alpha=0 seed=1'). What one does not name is as below and above.
  config.distill.students = ()
  config.distill.alpha = 0.9  # weight of knowledge distillation; 0 for none
  config.distill.beta = 1000.0  # weight of attention transfer; 0 for none
  config.distill.temperature = 4.0
  config.distill.kd_form = 'released'  # released, equation or hinton: see moonshine_jax/losses.py
  config.distill.at_form = 'released'  # released or equation
  return config
