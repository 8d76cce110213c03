import pytest

from moonshine_jax.data import names
from moonshine_jax.errors import UserError


@pytest.mark.parametrize(
  ('name', 'form', 'path', 'options'),
  [
    ('folder:/data/flowers', 'folder', '/data/flowers', {}),
    ('folder:flowers?test=10%', 'folder', 'flowers', {'test': '10%'}),
    ('cifar:cifar-100-python.tar.gz?label=coarse', 'cifar', 'cifar-100-python.tar.gz', {'label': 'coarse'}),
    ('npz:data', 'npz', 'data', {}),
    ('parquet:a?b/c', 'parquet', 'a?b/c', {}),
    ('folder:a:b', 'folder', 'a:b', {}),
    ('folder:a?x=1&y=2', 'folder', 'a', {'x': '1', 'y': '2'}),
  ],
)
def test_data_on_a_disk(name, form, path, options):
  assert names.parse(name) == (name, form, path, options)
  assert not names.is_function(name)


def test_other_names():
  for name in ('cifar10', 'mnist:3.0.1', 'mine.py:data', 'folder.py:data', 'my.folder:data', 'digits', 'folders:data'):
    assert names.parse(name) is None
  assert names.is_function('mine.py:data') and names.is_function('my.folder:data')
  assert not names.is_function('mnist:3.0.1')


def test_titles():
  assert names.title('cifar10') == 'cifar10'
  assert names.title('path/mine.py:data') == 'data'
  assert names.title('folder:/data/flowers/?test=10%') == 'flowers'
  assert names.title('npz:medmnist/path.npz') == 'path.npz'


def test_cifar_is_the_data_set_of_the_papers_tables():
  assert names.known_as('cifar:x.tar.gz', 100) == 'cifar100' and names.known_as('cifar:x', 10) == 'cifar10'
  assert names.known_as('folder:cifar10', 10) == 'folder:cifar10' and names.known_as('cifar10', 10) == 'cifar10'


def test_a_path_that_is_not_there_may_be_meant_as_a_function(tmp_path):
  with pytest.raises(
    UserError, match="'npz:data': no .*data: expected a path from here; for a function of npz.py, npz"
  ):
    names.parse('npz:data').find(str(tmp_path))
  with pytest.raises(UserError, match='~ is not expanded here'):
    names.parse('npz:~/data.npz').find('')
  (tmp_path / 'data').touch()
  assert names.parse('npz:data').find(str(tmp_path)) == tmp_path / 'data'
