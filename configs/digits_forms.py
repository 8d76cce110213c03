r"""The digits by every form of the losses: a student with cheap blocks, alone and by each form, in one table.

  moonshine sweep --config=digits_forms --regimes= --seeds=3 --together=6 --out=runs/digits_forms

trains the teacher of configs/digits.py and its student G(N/8) by the forms of moonshine_jax/losses. The weights are the
authors' where they have some for Wide ResNets, and are not tuned for the digits. 37 runs take about 15 minutes on two
CPU cores. One of the 500 test images is 0.2%: the table shows that every form trains, and little of which is best.
"""

import ml_collections

from moonshine_jax.configs import digits


def every_form(kd_warmup: int) -> tuple[str, ...]:
  """Returns the words of a student by none and by every form; kd_warmup: epochs of DKD's, the authors' 20 of 240."""
  return (
    'alpha=0 beta=0',
    'beta=0 kd_form=released',
    'beta=0 kd_form=equation',
    'beta=0 kd_form=hinton',
    'beta=0 kd_form=hinton standardise=True temperature=2 ce_weight=0.1 alpha=9',
    f'beta=0 kd_form=dkd ce_weight=1 alpha=1 kd_warmup={kd_warmup}',
    'beta=0 kd_form=dist ce_weight=1 alpha=1',
    'beta=0 kd_form=wttm ce_weight=1 alpha=4 temperature=5',
    'alpha=0 at_form=released',
    'alpha=0 at_form=equation beta=1',
    'alpha=0 at_form=nmse beta=1',
    'alpha=0 at_form=similarity beta=1000',  # the 3000 of one group, over three
  )


def get_config() -> ml_collections.ConfigDict:
  """Returns the config of the teacher, and in distill.students the words of the students."""
  config = digits.get_config()
  config.distill.students = tuple(f'block=G(N/8) {form}' for form in every_form(kd_warmup=2))
  return config
