r"""CIFAR-10, reduced, by every form of the losses: B(2) from a teacher that was trained on all images, in one table.

  moonshine sweep --config=cifar10_forms --regimes= --seeds=3 --together=6 --out=runs/cifar10_forms

trains students on 10,000 images for 5 epochs by the forms of configs/digits_forms.py, and with the same weights. Their
teacher is the WRN-16-1 of the zoo, whose test error is 13.3%. The students are far behind it, so there is much to be
taught, in few steps. 36 runs take about an hour and a quarter on two CPU cores.
"""

import ml_collections

from moonshine_jax.configs import cifar10_reduced, digits_forms


def get_config() -> ml_collections.ConfigDict:
  """Returns the config of the students, whose words are in distill.students."""
  config = cifar10_reduced.get_config()
  config.model.block = 'B(2)'
  config.distill.teacher = 'zoo:wrn-16-1-cifar10'
  config.distill.students = digits_forms.every_form(kd_warmup=1)
  return config
