import numpy as np
import pytest
from PIL import Image

from moonshine_jax.configs import digits
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError
from moonshine_jax.report import attention_maps
from tests.conftest import small_config
from tests.helpers.saved_networks import save_network


@pytest.fixture(scope='module')
def folder(tmp_path_factory, tiny_images):
  """A folder with the workdirs of a teacher and a student of `digits`, and of a network of another data set."""
  folder = tmp_path_factory.mktemp('attention')
  facts = Facts((8, 8, 1), 10, (78.0,), (95.0,))
  for name, block, teacher in (('teacher', 'S', ''), ('student', 'G(N/8)', 'teacher')):
    config = digits.get_config()
    config.model.block, config.distill.teacher, config.distill.alpha = block, teacher, 0.0
    (folder / name).mkdir()
    save_network(folder / name, config, facts)
  (folder / 'other').mkdir()
  save_network(folder / 'other', small_config(tiny_images), Facts((8, 8, 3), 3, (1.0,) * 3, (1.0,) * 3))
  return folder


def test_maps_are_those_computed_by_hand():
  activation = np.zeros((1, 2, 2, 2), np.float32)
  activation[0, 0, 0] = [2.0, 2.0]  # the mean of the squares is 4
  activation[0, 1, 1] = [1.0, -(7**0.5)]  # 4
  activation[0, 1, 0] = [0.0, 4.0]  # 8

  class Network:
    model = None

    def __call__(self, variables, images, train):
      return variables[None], [activation]

  maps = attention_maps.compute_maps('title', Network(), np.array([0.0, 3.0, 1.0]), np.zeros((1, 2, 2, 1), np.uint8))
  assert maps.title == 'title' and maps.predictions.tolist() == [1]
  with pytest.raises(UserError, match='title: the network gives no activations'):
    Network.__call__ = lambda self, variables, images, train: (variables[None], [])
    attention_maps.compute_maps('title', Network(), np.zeros(3), np.zeros((1, 2, 2, 1), np.uint8))
  np.testing.assert_allclose(maps.maps['map 1'], np.array([[[4, 0], [8, 4]]]) / 96**0.5, rtol=1e-6)


def test_picture_shows_maps_labels_and_predictions(folder):
  split, networks, classes = attention_maps.open_workdirs([folder / 'teacher', folder / 'student'])
  assert classes == ()
  assert [title for title, _, _ in networks] == ['teacher: WRN-10-1 S', 'student: WRN-10-1 G(N/8), AT']
  assert len(split) == 500 and split.labels[:3].tolist() == [0, 1, 2]
  maps = [attention_maps.compute_maps(*network, split.images[:2]) for network in networks]
  assert [array.shape for array in maps[1].maps.values()] == [(2, 8, 8), (2, 4, 4), (2, 2, 2)]
  attention_maps.draw_attention_maps(folder / 'maps.svg', [0, 1], split.images[:2], split.labels[:2], maps)
  svg = (folder / 'maps.svg').read_text()
  for text in (
    'teacher: WRN-10-1 S',
    'student: WRN-10-1 G(N/8), AT',
    'conv2',
    'conv4',
    'image 1',
    'label 1',
    f'predicts {maps[0].predictions[0]}',
  ):
    assert f'>{text}<' in svg
  names = [f'the ${i}$' for i in range(10)]
  attention_maps.draw_attention_maps(folder / 'named.svg', [0, 1], split.images[:2], split.labels[:2], maps, names)
  svg = (folder / 'named.svg').read_text()
  assert '>label the $1$<' in svg and f'>predicts the ${maps[0].predictions[0]}$<' in svg
  attention_maps.draw_attention_maps(folder / 'maps.png', [0], np.zeros((1, 8, 8, 3), np.uint8), split.labels[:1], maps)
  assert Image.open(folder / 'maps.png').width > 1000


def test_networks_of_different_data_sets_are_refused(folder):
  with pytest.raises(UserError, match='other is of the data .*tiny_images.*: expected the same'):
    attention_maps.open_workdirs([folder / 'teacher', folder / 'other'])


def test_image_indices_are_integers_in_the_split():
  assert attention_maps.parse_image_indices(['0', '499', '7', '7'], 500) == [0, 499, 7, 7]
  for word in ('500', '-1', '1.0', 'one', '', '²', '9' * 5000):
    with pytest.raises(UserError, match='--images: .*expected integers from 0 to 499, separated by commas'):
      attention_maps.parse_image_indices(['0', word], 500)
