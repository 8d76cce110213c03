"""Losses of each example, in float32: of labels, of a teacher's logits and of its activations.

The paper's equations, the code behind its numbers and what the field settled on later differ, so each has a name. Of
logits (knowledge distillation, KD), by `config.distill.kd_form`:

* `released`: the form that made the paper's tables. The loss of Hinton et al. was written with PyTorch's mean over all
  elements, so the teacher's part is divided by the number of classes.
* `equation`: equation 1 as printed.
* `hinton`: T^2 KL (Hinton et al., 2015), the form that the released code of attention transfer got later.
* `dkd`: decoupled knowledge distillation (Zhao et al., CVPR 2022).
* `dist`: correlations in place of KL (Huang et al., NeurIPS 2022).
* `wttm`: weighted transformed teacher matching (Zheng and Yang, ICLR 2024).

Each of them may have its logits standardised first (Sun et al., CVPR 2024). Of activations (attention transfer, AT), by
`config.distill.at_form`:

* `released`: attention maps are compared by their mean squared difference.
* `equation`: equation 2 as printed, the L2 norm of the difference.
* `nmse`: the normalised squared error of the activations themselves, of equal shapes.
* `similarity`: which examples activate a layer alike (Tung and Mori, ICCV 2019).

The caller takes the mean over the batch and applies the weights. What depends on the whole batch takes the name of the
replicas, over which it then reduces.
"""

from moonshine_jax.losses.activations import (
  attention_map,
  attention_transfer,
  normalised_squared_error,
  similarity_preservation,
)
from moonshine_jax.losses.correlation import correlation_distillation
from moonshine_jax.losses.decoupled import decoupled_distillation
from moonshine_jax.losses.logits import (
  cross_entropy,
  knowledge_distillation,
  standardise,
  transformed_teacher_matching,
)

__all__ = [
  'AT_FORMS',
  'KD_FORMS',
  'attention_map',
  'attention_transfer',
  'correlation_distillation',
  'cross_entropy',
  'decoupled_distillation',
  'knowledge_distillation',
  'normalised_squared_error',
  'similarity_preservation',
  'standardise',
  'transformed_teacher_matching',
]

KD_FORMS = ('released', 'equation', 'hinton', 'dkd', 'dist', 'wttm')
AT_FORMS = ('released', 'equation', 'nmse', 'similarity')
