"""What a search chooses from: the places of a teacher, the candidates for each, and what they cost."""

import copy
import dataclasses
from collections.abc import Callable, Sequence

import ml_collections
import numpy as np

from moonshine_jax import paper
from moonshine_jax.cost import counting
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError
from moonshine_jax.models import factory, resnet, user, wide_resnet
from moonshine_jax.models.blocks import Block
from moonshine_jax.models.network import Network
from moonshine_jax.models.surgery import places as places_lib
from moonshine_jax.models.surgery import replace
from moonshine_jax.models.surgery.layers import ConvLayer

# The paper's notations, in the order of Table 3, without that of its teacher.
PAPER_CANDIDATES = tuple(dict.fromkeys(row.block for row in paper.TABLE_3 if row.block != 'S'))

Choice = tuple[int, ...]  # for each place a candidate; 0 is the teacher's own block


@dataclasses.dataclass(frozen=True)
class Space:
  """The places of a teacher and the candidates for each.

  Attributes:
    model: `config.model` of the teacher.
    facts: of its data.
    places: paths of the places, in the order of the notations of `config.model.block`.
    own: notation of the teacher's block at each place.
    candidates: notations. In arrays over candidates they follow the teacher's own block, which is the first.
    fits: whether a candidate fits a place, and is not what the teacher has there; bool (places, 1 + candidates).
  """

  model: ml_collections.ConfigDict
  facts: Facts
  places: tuple[str, ...]
  own: tuple[str, ...]
  candidates: tuple[str, ...]
  fits: np.ndarray

  @property
  def teacher(self) -> Choice:
    """The choice of the teacher's own block at every place."""
    return (0,) * len(self.places)

  def uniform(self, candidate: int) -> Choice:
    """Returns the choice of one candidate wherever it fits."""
    return tuple(candidate if fits else 0 for fits in self.fits[:, candidate])

  def notation(self, choice: Choice) -> str:
    """Returns the `config.model.block` of a choice."""
    notations = [
      self.candidates[candidate - 1] if candidate else own for candidate, own in zip(choice, self.own, strict=True)
    ]
    return notations[0] if len(set(notations)) == 1 else ','.join(notations)

  def model_of(self, choice: Choice) -> ml_collections.ConfigDict:
    """Returns the `config.model` of a choice."""
    model = copy.deepcopy(self.model)
    model.block = self.notation(choice)
    return model

  def network(self, choice: Choice) -> Network:
    """Returns the network of a choice, for one device."""
    return factory.create_network(self.model_of(choice), self.facts)

  def name(self, choice: Choice) -> str:
    """Returns the network of a choice in words, as 'WRN-16-1 G(N/8)'."""
    return f'{factory.network_name(self.model)} {self.notation(choice)}'


def find_space(model: ml_collections.ConfigDict, facts: Facts, candidates: Sequence[str]) -> Space:
  """Finds the places of a teacher, and what fits there.

  Args:
    model: `config.model` of the teacher.
    facts: of its data.
    candidates: notations; none for the paper's.

  Raises:
    UserError: for what is no notation, for a teacher whose blocks cannot be replaced, and where no candidate fits.
  """
  notations = tuple(dict.fromkeys(map(_parse, candidates or PAPER_CANDIDATES)))
  if factory.is_user_defined(model):
    if model.block != 'S':
      raise UserError(f'--teacher: its convolutions are {model.block} already: expected a network with block S')
    layers = user.replaceable_convolutions(model.network, facts.num_classes, facts.image_shape, model.dtype)
    places = {layer.path: ('S', _fits_layer(layer, alone)) for layer, alone in layers.items()}
  else:
    places = _residual_places(model, facts)
  fits = np.array([[False, *map(fits_place, notations)] for _, fits_place in places.values()], bool)
  if not fits.any():
    raise UserError(f'--candidates={",".join(notations)}: none of them fits a place of {factory.network_name(model)}')
  own = tuple(notation for notation, _ in places.values())
  return Space(model, facts, tuple(places), own, notations, fits.reshape(len(places), 1 + len(notations)))


def describe_layers(space: Space) -> list[list[list[counting.Layer]]]:
  """Describes the layers of each candidate at each place: by candidate, the teacher's own block first, then by place.

  Where a candidate does not fit they are the teacher's.
  """
  by_choice: dict[Choice, list[list[counting.Layer]]] = {}
  described = []
  for candidate in range(1 + len(space.candidates)):
    choice = space.uniform(candidate)
    if choice not in by_choice:
      by_choice[choice] = _layers_at_places(space, choice)
    described.append(by_choice[choice])
  return described


def without_own_layers(space: Space, layers: Sequence[Sequence[Sequence[counting.Layer]]]) -> Space:
  """Returns the space in which no candidate fits where it is the teacher's own block, as `B(4)` in a bottleneck is.

  Args:
    space: the places and candidates.
    layers: of `describe_layers`.

  Raises:
    UserError: where no candidate is left.
  """
  own, *of_candidates = layers
  differs = [[False, *(there[place] != own[place] for there in of_candidates)] for place in range(len(own))]
  fits = space.fits & np.array(differs, bool)
  if not fits.any():
    raise UserError(f'--candidates={",".join(space.candidates)}: each is what {factory.network_name(space.model)} has')
  return dataclasses.replace(space, fits=fits)


def count_costs(space: Space, layers: Sequence[Sequence[Sequence[counting.Layer]]]) -> dict[str, np.ndarray]:
  """Counts what each candidate costs at each place: for a choice the sum is what the whole network costs, exactly.

  Args:
    space: the places and candidates.
    layers: of `describe_layers`.

  Returns:
    'parameters' and, where they can be counted, 'multiply_adds': int64 (places, 1 + candidates). The first place has
    what is at no place, too.
  """
  costs = {}
  for name, whole in count_whole(space, space.teacher).items():
    counts = [[[getattr(layer, name) for layer in there] for there in of_candidate] for of_candidate in layers]
    if all(count is not None for of_candidate in counts for there in of_candidate for count in there):
      costs[name] = np.array([[sum(there) for there in of_candidate] for of_candidate in counts], np.int64).T
      costs[name][0] += whole - costs[name][:, 0].sum()
  return costs


def find_choices(space: Space, layers: Sequence[Sequence[Sequence[counting.Layer]]]) -> np.ndarray:
  """Returns what is to be chosen from: bool (places, 1 + candidates), the teacher's own blocks included.

  A candidate that has the same layers at a place as one before it is left out there, as `BG(2,M/8)` beside `B(2)` where
  M is 8.
  """
  choices = space.fits.copy()
  choices[:, 0] = True
  for place, path in enumerate(space.places):
    seen = set()
    for candidate, of_candidate in enumerate(layers):
      there = tuple((layer.path.removeprefix(path), layer.kind, layer.output_shape) for layer in of_candidate[place])
      choices[place, candidate] &= there not in seen
      seen.add(there)
  return choices


def count_whole(space: Space, choice: Choice) -> dict[str, int]:
  """Counts the 'parameters' and, where they can be counted, the 'multiply_adds' of the whole network of a choice."""
  cost = dataclasses.asdict(counting.count_cost(space.network(choice).model, space.facts.image_shape))
  return {name: value for name, value in cost.items() if value is not None}


def _parse(notation: str) -> str:
  try:
    return str(Block.parse(notation))
  except ValueError as error:
    raise UserError(f'--candidates: {error}') from error


def _fits_layer(layer: ConvLayer, alone: bool) -> Callable[[str], bool]:
  return lambda notation: alone and replace.fits(layer, notation)


def _residual_places(model: ml_collections.ConfigDict, facts: Facts) -> dict[str, tuple[str, Callable[[str], bool]]]:
  """Returns for each residual block of a Wide ResNet or a ResNet its notation, and whether another fits."""
  groups = (
    resnet.stage_blocks(model.depth, model.block)
    if model.network == 'resnet'
    else wide_resnet.group_blocks(model.depth, model.block)
  )
  own = [str(block) for blocks in groups for block in blocks]
  module = factory.create_model(model, facts.num_classes)
  paths = places_lib.residual_blocks(module, facts.image_shape)

  def fits_place(place: int) -> Callable[[str], bool]:
    def fits(notation: str) -> bool:
      mixed = copy.deepcopy(model)
      mixed.block = ','.join([*own[:place], notation, *own[place + 1 :]])
      try:
        factory.check_model(mixed)
      except UserError:
        return False
      return notation != own[place]

    return fits

  return {path: (own[place], fits_place(place)) for place, path in enumerate(paths)}


def _layers_at_places(space: Space, choice: Choice) -> list[list[counting.Layer]]:
  """Returns the layers that a network has at each place."""
  layers = counting.profile(space.network(choice).model, space.facts.image_shape).layers
  return [[layer for layer in layers if f'{layer.path}/'.startswith(f'{place}/')] for place in space.places]
