"""Pickles as Python 2 and 3 write them, against NumPy; what runs when it is unpickled, does not run."""

import os
import pickle
import pickletools
import subprocess

import numpy as np
import pytest

from moonshine_jax.data.array_pickle import read_pickle
from moonshine_jax.errors import UserError

ARRAY = np.arange(24, dtype=np.uint8).reshape(4, 6) * 7

# What Python 2 and its NumPy wrote: texts and the array's bytes are strings, and the module has its old name.
PYTHON_2 = (
  b'\x80\x02}q\x00(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87Rq'
  b'\x04(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01\x87Rq\x06(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff'
  b'\xffK\x00tb\x89U\x06\x01\x02\xfe\xff\x00\x80tbU\x06labels]q\x07(K\x03K\x04eU\x05names]U\x03catau.'
)


class Runs:
  """What leaves a file when it is unpickled."""

  def __init__(self, call):
    self._call = call

  def __reduce__(self):
    return self._call


def test_what_python_2_wrote():
  values = read_pickle('batch', PYTHON_2)
  np.testing.assert_array_equal(values['data'], np.uint8([[1, 2, 254], [255, 0, 128]]))
  assert values['labels'] == [3, 4] and values['names'] == ['cat']


@pytest.mark.parametrize('array', [ARRAY, np.asfortranarray(ARRAY), ARRAY[:, ::2]])
@pytest.mark.parametrize('protocol', [0, 1, 2, 3, 4])
def test_arrays_are_those_that_were_written(array, protocol):
  values = read_pickle('batch', pickle.dumps({'data': array, 'labels': [1, 2]}, protocol))
  np.testing.assert_array_equal(values['data'], array)
  assert values['labels'] == [1, 2]


@pytest.mark.parametrize('protocol', [0, 2, 4, 5])
@pytest.mark.parametrize('at', ['value', 'key', 'array'])
def test_nothing_that_a_pickle_names_is_run(protocol, at, tmp_path):
  ran = tmp_path / 'ran'
  for call in [
    (os.system, (f'touch {ran}',)),
    (subprocess.check_call, (['touch', str(ran)],)),
    (eval, (f"open({str(ran)!r}, 'w')",)),
  ]:
    hostile = Runs(call)
    values = {'value': {'data': hostile}, 'key': {hostile: 1}, 'array': {'data': np.array([hostile], object)}}[at]
    with pytest.raises(UserError, match='^batch: (its pickle names|cannot be read)'):
      read_pickle('batch', pickle.dumps(values, protocol))
  assert not ran.exists()


def test_every_name_beside_those_of_arrays_is_refused():
  for name in [
    'os system',
    'builtins eval',
    'numpy load',
    'numpy.core.multiarray fromfile',
    'numpy._core.multiarray x',
  ]:
    program = b'c' + name.replace(' ', '\n').encode() + b'\n.'
    with pytest.raises(UserError, match=f"names '{name.replace(' ', '.')}', which is not run"):
      read_pickle('batch', program)


@pytest.mark.parametrize(
  'content',
  [
    b'',
    b'no pickle',
    pickle.dumps([1]),
    pickle.dumps({'data': np.zeros((2, 3))}, 2),
    pickle.dumps({'data': np.zeros((2, 3), 'u2')}, 2),
    pickle.dumps({'data': ARRAY}, 2)[:-30],
    PYTHON_2.replace(b'K\x02K\x03\x86', b'K\x02K\x7f\x86'),  # an array of more than its bytes
    PYTHON_2.replace(b'K\x02K\x03\x86', b'U\x01aU\x01b\x86'),
    b'\x80\x02cnumpy\ndtype\nU\x02O8\x85R.',
    b'\x80\x02c_codecs\nencode\nU\x01aU\x03zip\x86R.',
  ],
)
def test_what_is_no_such_pickle_is_one_line(content):
  with pytest.raises(UserError, match='^batch: cannot be read .*: expected a pickle of a dict of arrays$'):
    read_pickle('batch', content)


def test_the_pickle_of_python_2_is_one_of_its_time():
  opcodes = {opcode.name for opcode, _, _ in pickletools.genops(PYTHON_2)}
  assert 'SHORT_BINSTRING' in opcodes and 'SHORT_BINBYTES' not in opcodes
