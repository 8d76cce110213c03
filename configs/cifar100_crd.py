r"""CIFAR-100 by the protocol that the field reports: WRN-40-2 to WRN-16-2 and to WRN-40-1, by every method.

  moonshine sweep --config=cifar100_crd --regimes= --seeds=5 --out=runs/crd --config.model.dtype=bfloat16
  moonshine report runs/crd

It is the protocol of Tian et al. (CRD, ICLR 2020): batches of 64, 240 epochs, a learning rate of 0.05, divided by 10
after epochs 150, 180 and 210, weight decay 5e-4. The students in distill.students are both networks by each method
with its authors' weights, as moonshine_jax/published.py has them: alone, KD, AT, SP, DKD, KD of standardised logits,
DIST and WTTM. --regimes= adds no other. The report prints the published accuracies beside ours, and says which epoch
they are of.

WTTM's weights are not its authors', which they tune for each pair of networks; similarity preservation is over all
groups. It needs an accelerator, as configs/cifar10.py does. The sweep has not been run here.
"""

import ml_collections

from moonshine_jax import published
from moonshine_jax.configs import cifar100


def get_config() -> ml_collections.ConfigDict:
  """Returns the config of the teacher, and in distill.students the words of the students."""
  config = cifar100.get_config()
  config.update_from_flattened_dict(published.PROTOCOL)
  config.model.depth, config.model.width = published.TEACHER
  config.distill.students = tuple(
    ' '.join([f'depth={depth} width={width}', *(f'{word}={value}' for word, value in method.loss.items())])
    for depth, width in published.STUDENTS
    for method in published.METHODS
    if method.loss
  )
  return config
