import pytest

from moonshine_jax.errors import UserError
from moonshine_jax.search.settings import Settings


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({'held_out': 0.0}, '^held_out=0: expected a share above 0 and up to 0.5'),
    ({'held_out': 0.6}, '^held_out=0.6: expected a share'),
    ({'solutions': 0}, '^solutions=0: expected at least 1'),
    ({'distance': 0}, '^distance=0: expected at least 1'),
    ({'together': 0}, '^together=0: expected at least 1'),
    ({'tune_epochs': -1}, '^tune_epochs=-1: expected at least 0'),
    ({'score': 'x'}, "^score='x': expected one of kl, ce"),
  ],
)
def test_what_cannot_be_meant(values, message):
  with pytest.raises(UserError, match=message):
    Settings(**values)
