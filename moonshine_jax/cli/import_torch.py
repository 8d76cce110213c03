"""`moonshine import-torch`: a workdir of a network that was trained in PyTorch."""

from absl.flags import FlagValues

from moonshine_jax.cost import counting
from moonshine_jax.errors import UserError, say
from moonshine_jax.import_torch.network import import_network
from moonshine_jax.models import factory
from moonshine_jax.models.blocks import BN_EPSILON
from moonshine_jax.training.pretrained import are_of_pixels


def main(values: FlagValues, path: str) -> None:
  """Imports the network of a state dict, and prints what it is and its test error."""
  if (values.mean is None) != (values.std is None):
    raise UserError('--mean and --std: expected both, or neither')
  normalisation = None
  if values.mean is not None:
    normalisation = (
      _parse_channels('mean', values.mean),
      _parse_channels('std', values.std),
    )
  config, facts, record = import_network(
    path, values.config, values.workdir, normalisation, values.state, values.expect_error
  )
  parameters = counting.count_cost(factory.create_model(config.model, facts.num_classes), facts.image_shape).parameters
  mean, std = (','.join(f'{value / 255:.4f}' for value in values) for values in (facts.mean, facts.std))
  say(
    f'{values.workdir}: {factory.network_name(config.model)} {config.model.block}, {parameters:,} parameters, of {path}'
  )
  say(f'normalises images by mean {mean} and std {std}')
  say(
    f'{untold(config.model.network)}, which names do not tell: where the network has others, its error in PyTorch is '
    'another'
  )
  agreement = 'expected that which it has in PyTorch, as --expect_error compares'
  if values.expect_error is not None:
    agreement = f'as it has in PyTorch ({values.expect_error:.2f}%)'
  say(f'test error {record["test_error"]:.2f}% on {config.data.name}: {agreement}')


def untold(network: str) -> str:
  """Returns what a network is taken to have that the names and shapes of its arrays do not tell."""
  if network == 'resnet':
    return f'ReLU, BN of epsilon {BN_EPSILON:g}, and strides in the 3x3 convolutions'
  return (
    f'ReLU, BN of epsilon {BN_EPSILON:g}, and in a block that changes its channels a shortcut from behind BN and ReLU'
  )


def _parse_channels(flag: str, words: list[str]) -> tuple[float, ...]:
  """The numbers of a flag. Raises UserError where they are none, or not fractions of the range of a pixel."""
  text = f'--{flag}={",".join(words)}'
  expected = 'expected a number from 0 to 1 for each channel, as for transforms.Normalize'
  try:
    numbers = tuple(float(word) for word in words)
  except ValueError as error:
    raise UserError(f'{text}: {error}: {expected}') from error
  if not numbers or not are_of_pixels(flag, numbers, white=1):
    of_255 = ','.join(f'{number / 255:.4f}' for number in numbers)
    hint = f': --{flag}={of_255} if these are of 255' if any(number > 1 for number in numbers) else ''
    raise UserError(f'{text}: {expected}{hint}')
  return numbers
