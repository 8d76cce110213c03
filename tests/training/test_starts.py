"""What students start from: which blocks are to learn, which have, and who waits for whom."""

import contextlib
import threading
import time

import pytest

from moonshine_jax import config as config_lib
from moonshine_jax.configs import digits
from moonshine_jax.errors import UserError
from moonshine_jax.training import loop, starts
from moonshine_jax.workdir.workdir import Workdir


def make_config():
  """A student that starts from blocks."""
  config = digits.get_config()
  config.model.depth, config.model.block = 10, 'G(N/8)'
  config.distill.teacher, config.distill.start = 'runs/teacher', 'blockwise'
  return config


def test_students_that_differ_in_the_loss_alone_share_their_blocks(tmp_path):
  config = make_config()
  config.distill.start, config.blockwise.epochs = '', 3
  config.distill.students = (
    'block=G(N/8) alpha=0 start=blockwise',
    'block=G(N/8) beta=0 start=blockwise',
    'block=B(2) start=blockwise',
    'block=S-2x2',
  )
  blocks = starts.config_of_blocks(config, tmp_path)
  assert [student.model.block for student in config_lib.students(blocks).values()] == ['G(N/8)', 'B(2)']
  assert (blocks.epochs, blocks.distill.blockwise, blocks.distill.start) == (3, True, '')
  workdirs = [starts.start_of(student, tmp_path) for student in config_lib.students(config).values()]
  assert str(workdirs[0]) == str(workdirs[1]) != str(workdirs[2]) and workdirs[3] is None
  assert {start.path.name for start in workdirs[:3]} == set(config_lib.students(blocks))

  config.distill.students = ('block=S-2x2',)
  assert starts.config_of_blocks(config, tmp_path) is None


def test_blocks_that_have_learnt_in_another_job_of_a_sweep_do_not_learn_again(tmp_path, monkeypatch):
  config = make_config()
  config.distill.start = 'blockwise'
  config.optimizer.warmup_epochs = 2  # of a run of more epochs than the blocks have
  config.distill.students = ('block=G(N/8)', 'block=B(2) alpha=0', 'block=S-2x2')
  begun = {str(starts.start_of(config_lib.students(config)['block-B-2-alpha-0'], tmp_path))}
  monkeypatch.setattr(Workdir, 'begun', property(lambda self: str(self) in begun))
  blocks = starts.config_of_blocks(config, tmp_path)
  assert [student.model.block for student in config_lib.students(blocks).values()] == ['G(N/8)', 'S-2x2']
  config_lib.check(blocks)


def test_a_notation_with_spaces_is_one_word(tmp_path):
  config = make_config()
  config.distill.start, config.model.block = 'blockwise', 'S, G( N/8 ),B(2)'
  (words,) = starts.config_of_blocks(config, tmp_path).distill.students
  assert 'block=S,G(N/8),B(2)' in words.split()


def test_a_network_whose_path_words_cannot_name_is_one_line(tmp_path):
  config = make_config()
  (tmp_path / 'a b.py').write_text('def net(num_classes): ...\n')
  config.model.network = f'{tmp_path}/a b.py:net'
  with pytest.raises(
    UserError, match=r"^config.model.network='.*/a b.py:net': expected a path without spaces with dist"
  ):
    starts.config_of_blocks(config, tmp_path)


@pytest.mark.parametrize('part', ['blockwise', 'start/{}'])
def test_blocks_are_written_through_no_link_that_leaves_the_workdir(tmp_path, part):
  config, workdir = make_config(), tmp_path / 'run'
  link = workdir / part.format(starts.start_of_blocks(config, workdir).path.name)
  link.parent.mkdir(parents=True)
  link.symlink_to(tmp_path)
  with pytest.raises(UserError, match=f'^{link}: cannot be written: a link leads to'), contextlib.ExitStack() as held:
    starts.hold_blocks(config, workdir, held)


def learnt(config, workdir):
  """Makes the configs that are left where the blocks of a run have learnt; returns the workdir that it starts from."""
  blocks, start = starts.config_of_blocks(config, workdir), starts.start_of(config, workdir)
  for path, written in ((workdir / 'blockwise' / start.path.name, blocks), (start.path, config)):
    path.mkdir(parents=True)
    (student,) = config_lib.students(written).values()
    Workdir(path).write_config(student)
  return start


@pytest.mark.parametrize(
  ('field', 'value', 'told'),
  [
    ('distill.teacher', 'runs/better', "config.distill.teacher='runs/better' (there: 'runs/teacher')"),
    ('blockwise.epochs', 2, 'config.blockwise.epochs=2 (there: 1)'),
    ('data.train_split', 'train[:100]', "config.data.train_split='train[:100]' (there: 'train')"),
    ('batch_size', 16, 'config.batch_size=16 (there: 32)'),
    ('model.dtype', 'bfloat16', "config.model.dtype='bfloat16' (there: 'float32')"),
  ],
)
def test_blocks_that_have_learnt_in_another_way_are_refused(tmp_path, field, value, told):
  config = make_config()
  config.batch_size = 32
  start = learnt(config, tmp_path)
  config.update_from_flattened_dict({field: value})
  with pytest.raises(UserError) as raised:
    starts.config_of_blocks(config, tmp_path)
  assert str(raised.value) == (
    f'{start} is of blocks that have learnt in another way: {told}: expected the same, or another workdir'
  )


def test_another_seed_and_loss_start_from_the_same_blocks(tmp_path):
  config = make_config()
  learnt(config, tmp_path)
  config.seed, config.epochs, config.distill.alpha, config.optimizer.learning_rate = 3, 40, 0.0, 0.01
  config.optimizer.decay_epochs = (5,)
  assert starts.config_of_blocks(config, tmp_path) is None


def test_a_run_waits_for_another_in_which_the_same_blocks_learn(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(loop, 'prepare', lambda *_: pytest.fail('the blocks learn again'))
  config, ended = make_config(), []
  waiting = threading.Thread(target=lambda: ended.append(loop.learn_blocks(config, tmp_path, False)))
  with contextlib.ExitStack() as held:
    starts.hold_blocks(config, tmp_path, held)
    waiting.start()
    start, told = starts.start_of(config, tmp_path), ''
    while 'waits' not in told:
      told += capsys.readouterr().out
      time.sleep(0.01)
    assert told == f'{start}: waits for another run, in which its blocks learn\n' and not ended
    Workdir(start).write_config(config)
  waiting.join(10)
  assert ended == [None]
