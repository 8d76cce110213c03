"""Published accuracies of WRN-40-2 distilled on CIFAR-100 by the protocol of Tian et al. (CRD, ICLR 2020).

Which epoch a number is of is what the released code of its source says; it is worth about half a point:

* HobbitLong/RepDistiller, train_student.py: the results of the paper and of its README are from the last epoch.
* megvii-research/mdistiller, engine/trainer.py, writes the best epoch's accuracy as the result; so does
  sunshangquan/logit-standardization-KD, built on it, whose log of KD for WRN-16-2 ends at 75.59 with 76.08 the best.
* zkxufo/TTM writes both, and does not say which of them it prints. Its table has DIST's 75.51 for WRN-16-2, which the
  README of hunto/DIST_KD lacks; for WRN-40-1 that has 74.43.
"""

from typing import NamedTuple

DATA = 'cifar100'
# The protocol, and the students, by words of `distill.students`; the teacher is WRN-40-2.
PROTOCOL = {
  'batch_size': 64,
  'epochs': 240,
  'model.network': 'wide_resnet',
  'model.block': 'S',
  'optimizer.learning_rate': 0.05,
  'optimizer.momentum': 0.9,
  'optimizer.weight_decay': 5e-4,
  'optimizer.schedule': 'steps',
  'optimizer.decay_factor': 0.1,
  'optimizer.decay_epochs': (150, 180, 210),
}
TEACHER = (40, 2)  # depth and width
STUDENTS = ((16, 2), (40, 1))

LAST, BEST, UNKNOWN = 'last', 'best', 'not said'


class PublishedMethod(NamedTuple):
  """A method, and the accuracies that were published for it.

  Attributes:
    name: as its authors call it.
    loss: fields of the loss, by their words in `distill.students`; None for what this project has no loss for.
    accuracies: top-1 accuracy in percent of each of STUDENTS.
    epoch: of which epoch they are: 'last', 'best', by the test set, or 'not said'.
    source: the paper that prints them.
  """

  name: str
  loss: dict[str, str | float | bool] | None
  accuracies: tuple[float, float]
  epoch: str
  source: str


_CRD, _DKD = 'CRD (Tian et al., 2020)', 'DKD (Zhao et al., 2022)'

METHODS = (
  PublishedMethod('student alone', {'alpha': 0.0, 'beta': 0.0}, (73.26, 71.98), LAST, _CRD),
  PublishedMethod(
    'KD', {'kd_form': 'hinton', 'alpha': 0.9, 'beta': 0.0, 'temperature': 4.0}, (74.92, 73.54), LAST, _CRD
  ),
  PublishedMethod('AT', {'alpha': 0.0, 'beta': 1000.0, 'at_form': 'released'}, (74.08, 72.77), LAST, _CRD),
  # Theirs compares the last group alone, ours all three.
  PublishedMethod('SP', {'alpha': 0.0, 'beta': 3000.0, 'at_form': 'similarity'}, (73.83, 72.43), LAST, _CRD),
  PublishedMethod('CRD', None, (75.48, 74.14), LAST, _CRD),
  PublishedMethod(
    'DKD',
    {'kd_form': 'dkd', 'alpha': 1.0, 'beta': 0.0, 'ce_weight': 1.0, 'temperature': 4.0, 'kd_warmup': 20},
    (76.24, 74.81),
    BEST,
    _DKD,
  ),
  PublishedMethod(
    'KD, standardised',
    {'kd_form': 'hinton', 'alpha': 9.0, 'beta': 0.0, 'ce_weight': 0.1, 'temperature': 2.0, 'standardise': True},
    (76.11, 74.37),
    BEST,
    'Sun et al., 2024',
  ),
  PublishedMethod(
    'DIST',
    {'kd_form': 'dist', 'alpha': 1.0, 'beta': 0.0, 'ce_weight': 1.0, 'temperature': 4.0},
    (75.51, 74.73),
    UNKNOWN,
    'Huang et al., 2022, as WTTM prints it',
  ),
  # Its weights for each pair are in the paper's appendix; these are not they: gamma 0.2 as in the README's example.
  PublishedMethod(
    'WTTM',
    {'kd_form': 'wttm', 'alpha': 4.0, 'beta': 0.0, 'ce_weight': 1.0, 'temperature': 5.0},
    (76.37, 74.58),
    UNKNOWN,
    'WTTM (Zheng and Yang, 2024)',
  ),
)
