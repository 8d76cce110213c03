"""The step that the students of a run go on from."""

from pathlib import Path

import pytest

from moonshine_jax.errors import UserError
from moonshine_jax.training import students as students_lib


@pytest.mark.parametrize(
  ('saved', 'expected'), [(([], []), 0), (([4], [4]), 4), (([2, 4], [2]), 2), (([2], []), 0), (([2, 4], [4, 6]), 4)]
)
def test_students_go_on_from_the_newest_step_that_all_have(saved, expected):
  assert students_lib.common_step({Path(f'run/{i}'): each for i, each in enumerate(saved)}, last_step=8) == expected


@pytest.mark.parametrize('saved', [([2, 4], []), ([6, 8], [2]), ([8], []), ([4, 6], [2])])
def test_students_that_are_not_of_one_run_are_refused(saved):
  with pytest.raises(UserError, match=r'^run: the students are at different steps \(0 \d, 1 \d\)'):
    students_lib.common_step({Path(f'run/{i}'): each for i, each in enumerate(saved)}, last_step=8)
