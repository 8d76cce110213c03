"""The fields of a config: their defaults, which are the paper's recipe, the values that they may have, and meanings."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

from moonshine_jax import losses
from moonshine_jax.models import wide_resnet
from moonshine_jax.runtime import user_functions

DTYPES = ('float32', 'bfloat16')
FEEDS = ('resident', 'stream')

# Bounds that no real run meets. Beyond them a seed repeats another's (JAX's keys take 32 bits of it), a count does not
# fit the 32 bits of the step, and a number or its square is no float32.
MAX_SEED = 2**32 - 1
MAX_COUNT = 10**9
MAX_NUMBER = 1e9
MAX_IMAGE_SIZE = 4096  # pixels on a side
MAX_PATH, MAX_FILE_NAME = 4095, 255  # bytes, the limits of Linux


@dataclasses.dataclass(frozen=True)
class Kind:
  """The values that a field may have.

  Attributes:
    valid: whether a value is one of them.
    expected: the words for them.
  """

  valid: Callable[[Any], bool]
  expected: str


@dataclasses.dataclass(frozen=True)
class Field:
  """A field of a config.

  Attributes:
    default: the value where a config does not say another.
    kind: the values that it may have.
    meaning: what it says, in a line.
    recipe: whether the default is of the paper's recipe (section 4.1, and the released code).
    later: whether files may lack it that are older than the field: they did what the default does.
  """

  default: Any
  kind: Kind
  meaning: str
  recipe: bool = False
  later: bool = False


def _integer(least: int, most: int = MAX_COUNT) -> Kind:
  return Kind(
    lambda value: type(value) is int and least <= value <= most,
    f'an integer of at least {least} and at most {most}',
  )


def _number(inside: Callable[[float], bool], expected: str) -> Kind:
  return Kind(lambda value: type(value) in (int, float) and inside(value), f'a number {expected}')


def _choice(values: tuple[str, ...]) -> Kind:
  return Kind(lambda value: value in values, 'one of ' + ', '.join(values))


def _form(values: tuple[str, ...]) -> Kind:
  return Kind(
    lambda value: value in values or (isinstance(value, str) and user_functions.is_name(value)),
    f'one of {", ".join(values)}, or a function, as path/file.py:function',
  )


def _may_be_path(text: str) -> bool:
  try:
    encoded = os.fsencode(text)
    return '\0' not in text and len(encoded) <= MAX_PATH and max(map(len, encoded.split(b'/'))) <= MAX_FILE_NAME
  except UnicodeEncodeError:  # a lone surrogate that stands for no byte
    return False


def _increasing_epochs(value: Any) -> bool:
  return (
    isinstance(value, tuple)
    and all(type(epoch) is int and 0 < epoch <= MAX_COUNT for epoch in value)
    and list(value) == sorted(set(value))
  )


_POSITIVE = _number(lambda value: 0 < value <= MAX_NUMBER, f'above 0 and at most {MAX_NUMBER:g}')
_NOT_NEGATIVE = _number(lambda value: 0 <= value <= MAX_NUMBER, f'of at least 0 and at most {MAX_NUMBER:g}')
_CE_WEIGHT = _number(
  lambda value: value == -1 or 0 <= value <= MAX_NUMBER, f'of at least 0 and at most {MAX_NUMBER:g}, or -1'
)
_BELOW_ONE = _number(lambda value: 0 <= value < 1, 'from 0 to below 1')
_TEMPERATURE = _number(lambda value: 1e-3 <= value <= 1e6, 'from 0.001 to 1e+06')
_BOOL = Kind(lambda value: isinstance(value, bool), 'True or False')
_NAME = Kind(lambda value: isinstance(value, str) and bool(value), 'a string that is not empty')
_PATH = Kind(lambda value: isinstance(value, str) and _may_be_path(value), 'a string that may be a path')
_PATH_OR_NAME = Kind(lambda value: _PATH.valid(value) and bool(value), 'a string that is not empty: a path or a name')
_TEXTS = Kind(
  lambda value: isinstance(value, tuple) and all(isinstance(text, str) for text in value), 'a tuple of strings'
)
_EPOCHS = Kind(_increasing_epochs, f'increasing positive integers, as (60, 120, 160), of at most {MAX_COUNT}')

FIELDS: dict[str, Field] = {
  'seed': Field(0, _integer(0, MAX_SEED), 'of the order of the examples and their augmentation'),
  'batch_size': Field(128, _integer(1), 'examples in a step, over all devices', recipe=True),
  'epochs': Field(200, _integer(0), 'passes over the training split; 0 for a network trained elsewhere', recipe=True),
  'steps_per_dispatch': Field(
    39,
    _integer(1),
    'steps that the devices run without hearing from the host (feed resident); an epoch of CIFAR has 10 times 39',
  ),
  'eval_every': Field(1, _integer(1), 'epochs from one evaluation to the next'),
  'checkpoint_every': Field(5, _integer(1), 'epochs from one checkpoint to the next'),
  'model.seed': Field(0, _integer(0, MAX_SEED), 'of the initial parameters'),
  'model.network': Field(
    'wide_resnet',
    _PATH_OR_NAME,
    'wide_resnet, resnet, or a function that returns a linen module: package.module:function, path/file.py:function',
  ),
  'model.depth': Field(40, _integer(1), 'layers; not of a function'),
  'model.width': Field(2, _integer(1, wide_resnet.MAX_WIDTH), 'factor of the channels; not of a function'),
  'model.block': Field(
    'S',
    _NAME,
    'one notation for the network; several, separated by commas, for its groups; or one for every block, or for every '
    'convolution that may be replaced in the network of a function',
  ),
  'model.dtype': Field('float32', _choice(DTYPES), 'of the computation', recipe=True),
  'data.name': Field(
    'cifar10',
    _PATH_OR_NAME,
    'of TFDS; or folder:PATH, cifar:PATH, npz:PATH, parquet:PATH; or digits; or a function that returns arrays',
  ),
  'data.data_dir': Field(
    '',
    _PATH,
    "where TFDS's data is, or goes (empty for ~/tensorflow_datasets), and where a relative PATH of data.name begins",
  ),
  'data.train_split': Field('train', _NAME, 'or a part of it, as TFDS writes one: train[:50%]', recipe=True),
  'data.test_split': Field('test', _NAME, 'or a part of it', recipe=True),
  'data.held_out': Field(
    0.0,
    _number(lambda value: 0 <= value <= 0.5, 'from 0 to 0.5'),
    'share of the training split, drawn once for all runs, that no run trains on: it is evaluated on in place of the '
    'test split, for choices that may not see that; `moonshine evaluate` takes the test split all the same',
    later=True,
  ),
  'data.feed': Field('resident', _choice(FEEDS), 'the data set on the devices; or stream, from the host'),
  'data.image_size': Field(
    0,
    _integer(0, MAX_IMAGE_SIZE),
    'pixels on a side to which images of any size are cropped as they are read; 0 for images of one size',
  ),
  'data.pad': Field(4, _integer(0), 'pixels on each side, before the random crop', recipe=True),
  'data.flip': Field(True, _BOOL, 'flips half of the images horizontally', recipe=True),
  'data.cutout': Field(
    0,
    _integer(0, MAX_IMAGE_SIZE),
    'pixels on a side of the square cut out of each image; 0 for none',
    recipe=True,
    later=True,
  ),
  'data.mixup': Field(
    0.0,
    _NOT_NEGATIVE,
    'a of the Beta(a, a) of the share in which a batch mixes its images; 0 for none',
    recipe=True,
    later=True,
  ),
  'data.cutmix': Field(
    0.0,
    _NOT_NEGATIVE,
    'the same, of the area that is pasted; with mixup too, one of both in each step',
    recipe=True,
    later=True,
  ),
  'data.label_smoothing': Field(0.0, _BELOW_ONE, 'share of the target that all classes have', recipe=True, later=True),
  'optimizer.learning_rate': Field(0.1, _POSITIVE, 'at the start', recipe=True),
  'optimizer.momentum': Field(0.9, _BELOW_ONE, 'of SGD', recipe=True),
  'optimizer.nesterov': Field(False, _BOOL, "whether the momentum is Nesterov's", recipe=True, later=True),
  'optimizer.weight_decay': Field(5e-4, _NOT_NEGATIVE, 'on every parameter', recipe=True),
  'optimizer.decay_bn_and_biases': Field(True, _BOOL, 'whether weight decay is on them too', recipe=True, later=True),
  'optimizer.schedule': Field(
    'steps', _choice(('steps', 'cosine')), 'of the learning rate: by decay_epochs, or to 0', recipe=True, later=True
  ),
  'optimizer.warmup_epochs': Field(
    0, _integer(0), 'epochs over which the learning rate rises linearly', recipe=True, later=True
  ),
  'optimizer.decay_factor': Field(0.2, _POSITIVE, 'of the learning rate, at each decay', recipe=True),
  'optimizer.decay_epochs': Field((60, 120, 160), _EPOCHS, 'epochs after which the learning rate falls', recipe=True),
  'optimizer.ema': Field(
    0.0,
    _BELOW_ONE,
    'decay of a moving average of the weights, kept and evaluated beside them; 0 for none',
    recipe=True,
    later=True,
  ),
  'distill.teacher': Field('', _PATH, "the teacher's workdir, or its file, or zoo:NAME; empty for no distillation"),
  'distill.start': Field(
    '',
    _PATH,
    "where the student's parameters begin: empty for random ones; blockwise for blocks that were each trained to match "
    "the teacher's block; or the workdir of a network with the same blocks",
    later=True,
  ),
  'distill.blockwise': Field(
    False, _BOOL, 'whether each block learns alone, as distill.start=blockwise has it, in place of the loss', later=True
  ),
  'distill.students': Field(
    (),
    _TEXTS,
    "several students of one run, each in a folder in the workdir: ('block=G(N/8) alpha=0', 'block=B(2) seed=1'); "
    'what one does not name is as in the other fields',
  ),
  'distill.alpha': Field(0.9, _NOT_NEGATIVE, 'weight of knowledge distillation (KD); 0 for none', recipe=True),
  'distill.beta': Field(1000.0, _NOT_NEGATIVE, 'weight of attention transfer (AT); 0 for none', recipe=True),
  'distill.ce_weight': Field(
    -1.0, _CE_WEIGHT, 'weight of cross entropy beside KD and AT; -1 for 1 - alpha', recipe=True, later=True
  ),
  'distill.temperature': Field(4.0, _TEMPERATURE, 'of knowledge distillation', recipe=True),
  'distill.kd_form': Field('released', _form(losses.KD_FORMS), 'see moonshine_jax/losses', recipe=True),
  'distill.at_form': Field('released', _form(losses.AT_FORMS), 'see moonshine_jax/losses', recipe=True),
  'distill.kd_warmup': Field(0, _integer(0), 'epochs over which the weight of KD rises', recipe=True, later=True),
  'distill.at_warmup': Field(0, _integer(0), 'epochs over which the weight of AT rises', recipe=True, later=True),
  'distill.standardise': Field(False, _BOOL, 'the logits of both, before any form of KD', recipe=True, later=True),
  'distill.dkd_target': Field(1.0, _NOT_NEGATIVE, "weight of the label's class in dkd, the paper's alpha", later=True),
  'distill.dkd_others': Field(6.0, _NOT_NEGATIVE, "weight of the other classes in dkd, the paper's beta", later=True),
  'distill.dist_inter': Field(2.0, _NOT_NEGATIVE, "weight of an example's classes in dist, its beta", later=True),
  'distill.dist_intra': Field(2.0, _NOT_NEGATIVE, "weight of a class's examples in dist, its gamma", later=True),
  'blockwise.epochs': Field(1, _integer(1), 'passes over the training split in which blocks learn alone', later=True),
  'blockwise.optimizer': Field('adam', _choice(('adam', 'sgd')), 'of blocks that learn alone', later=True),
  'blockwise.learning_rate': Field(3e-3, _POSITIVE, 'at the start; it falls to 0 by a cosine', later=True),
  'blockwise.calibration_steps': Field(
    100,
    _integer(1),
    "steps in which BN's running statistics are estimated once the blocks are put together",
    later=True,
  ),
}

MAY_DIFFER = {'data.data_dir', 'data.feed', 'steps_per_dispatch'}  # fields that change no bit of a run
RECIPE = {name: field.default for name, field in FIELDS.items() if field.recipe}
# What a run has whose error can stand beside a published one: the recipe, on the test split, from random parameters.
COMPARABLE = RECIPE | {name: FIELDS[name].default for name in ('data.held_out', 'distill.start')}
