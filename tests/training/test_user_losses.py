"""A user's own losses: what is tried before a run, and the line for each mistake."""

import jax
import jax.numpy as jnp
import pytest

from moonshine_jax.config import create_config
from moonshine_jax.errors import UserError
from moonshine_jax.training import terms, user_losses

FUNCTIONS = """
import jax, jax.numpy as jnp

def squares(student, teacher, labels):
  assert labels.dtype == jnp.int32
  return jnp.square(student - teacher).mean(-1)

def maps(student, teacher, labels):
  return sum(jnp.square(s.mean((1, 2, 3)) - t.mean((1, 2, 3))) for s, t in zip(student, teacher))

def summed(student, teacher, labels):
  return jnp.square(student - teacher).sum()

def classes(student, teacher, labels):
  return student.argmax(-1)

def two(student, teacher, labels):
  return student[:, 0], teacher[:, 0]

def logarithm(student, teacher, labels):
  return jnp.log(student).sum(-1)

def root(student, teacher, labels):
  return jnp.sqrt(jnp.square(student - student).sum(-1))

def numpy(student, teacher, labels):
  return float(student[0, 0]) * student[:, 0]

def of_labels(student, teacher, labels):
  return jax.nn.log_softmax(teacher)[:, 0]

def of_two(student, teacher):
  return student
"""
ACTIVATIONS = (jax.ShapeDtypeStruct((2, 4, 4, 3), jnp.float32), jax.ShapeDtypeStruct((2, 2, 2, 5), jnp.bfloat16))


@pytest.fixture
def mine(tmp_path):
  (tmp_path / 'mine.py').write_text(FUNCTIONS)
  return tmp_path / 'mine.py'


def check(regime, **forms):
  config = create_config({f'distill.{name}': form for name, form in forms.items()})
  user_losses.check_user_losses(config.distill, regime, 5, ACTIVATIONS, ACTIVATIONS)
  return config.distill


def test_functions_that_can_be_used_are(mine, capsys):
  distill = check('KD+AT', kd_form=f'{mine}:squares', at_form=f'{mine}:maps')
  student, teacher, labels = jnp.ones((3, 5)), jnp.full((3, 5), 3.0), jnp.zeros(3, jnp.int32)
  assert terms.kd_term(distill, None)(student, teacher, labels).tolist() == [4.0] * 3
  activations = [(jnp.full((3, 2, 2, 4), value),) for value in (1.0, 2.0)]
  assert terms.at_term(distill, None)(*activations, labels).tolist() == [1.0] * 3
  check('AT', kd_form=f'{mine}:none', at_form=f'{mine}:maps')  # what is not used is not looked for
  assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize(
  ('function', 'message'),
  [
    ('none', "mine.py:none': no none in .*: expected one of squares, "),
    (
      'summed',
      'gives float32 of the shape \\(\\) for 4 examples: expected a function of .* to a float for each example',
    ),
    ('classes', 'gives int32 of the shape \\(4,\\) for 4 examples'),
    ('two', 'gives a tuple for 4 examples'),
    ('logarithm', 'its value is not finite for random numbers'),
    ('root', 'its gradient is not finite'),
    ('numpy', 'ConcretizationTypeError: .*that JAX can differentiate'),
    ('of_two', "TypeError: .*expected a function of \\(the student's logits"),
  ],
)
def test_functions_that_cannot(function, message, mine):
  with pytest.raises(UserError, match=f'(?s)^config.distill.kd_form=.*{message}'):
    check('KD', kd_form=f'{mine}:{function}')


def test_a_function_that_teaches_nothing(mine, capsys):
  check('KD', kd_form=f'{mine}:of_labels')
  assert 'its gradient by what the student gives is 0: the student learns nothing from it' in capsys.readouterr().err
