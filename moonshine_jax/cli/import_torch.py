"""Makes a workdir of a network that was trained in PyTorch:

  python -m moonshine_jax.import_torch FILE --workdir=DIR [--config=configs/cifar10.py] [--mean=... --std=...]

FILE holds a state dict, by `torch.save` or as safetensors, of a Wide ResNet or of a ResNet of torchvision. Without a
config, a Wide ResNet for 10 or 100 classes is taken to be of CIFAR-10 or CIFAR-100, a ResNet for 1000 of ImageNet.
"""

from absl import flags
from ml_collections import config_flags

from moonshine_jax import config, errors
from moonshine_jax.cost import counting
from moonshine_jax.import_torch.network import import_network
from moonshine_jax.models import factory

CONFIG = config_flags.DEFINE_config_file('config', None, 'A config of the data that the network was trained on.')
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder for the network.')
MEAN = flags.DEFINE_list('mean', None, "The channels' means, of pixels from 0 to 1, as given to transforms.Normalize.")
STD = flags.DEFINE_list('std', None, 'Their standard deviations, likewise.')


def main(path: str) -> None:
  errors.require_flags(workdir=WORKDIR.value)
  if (MEAN.value is None) != (STD.value is None):
    raise errors.UserError('--mean and --std: expected both, or neither')
  normalisation = None
  if MEAN.value is not None:
    normalisation = parse(MEAN, lambda value: 0 <= value <= 1), parse(STD, lambda value: 0 < value <= 1)
  loaded = None
  if CONFIG.value is not None:
    loaded = config.loaded(CONFIG.value)
    config.check(loaded)
  run, facts, record = import_network(path, loaded, WORKDIR.value, normalisation)
  parameters = counting.count(factory.create_model(run.model, facts.num_classes), facts.image_shape).parameters
  mean, std = (','.join(f'{value / 255:.4f}' for value in values) for values in (facts.mean, facts.std))
  print(f'{WORKDIR.value}: {factory.name(run.model)} {run.model.block}, {parameters:,} parameters, of {path}')
  print(f'normalises images by mean {mean} and std {std}')
  print(f'test error {record["test_error"]:.2f}% on {run.data.name}: expected that which it has in PyTorch')


def parse(flag: flags.FlagHolder, inside) -> tuple[float, ...]:
  """The numbers of a flag. Raises UserError where they are none, or not fractions of the range of a pixel."""
  given = f'--{flag.name}={",".join(flag.value)}'
  expected = 'expected a number from 0 to 1 for each channel, as for transforms.Normalize'
  try:
    values = tuple(float(value) for value in flag.value)
  except ValueError as error:
    raise errors.UserError(f'{given}: {error}: {expected}') from error
  if not values or not all(map(inside, values)):
    of_255 = ','.join(f'{value / 255:.4f}' for value in values)
    hint = f': --{flag.name}={of_255} if these are of 255' if any(value > 1 for value in values) else ''
    raise errors.UserError(f'{given}: {expected}{hint}')
  return values


if __name__ == '__main__':
  errors.run_command(main, 'FILE')
