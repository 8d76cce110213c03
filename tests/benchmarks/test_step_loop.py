"""The command on a network that compiles at once, and its arithmetic; never how fast it is."""

import json

import flax.linen as nn
import jax
import pytest

from benchmarks import step_loop
from benchmarks.step_loop import FORWARD, IN_SEQUENCE, MANY_STEPS, ONE_STEP, RESIDENT, STREAMED, TOGETHER
from moonshine_jax.models.network import Network

NETWORKS = ['--networks', 'WRN-10-1 S', 'WRN-10-1 B(2)', 'WRN-10-1 B(2)']


class Small(nn.Module):
  """What a step asks of a network, and no more."""

  @nn.compact
  def __call__(self, images, train=False):
    x = nn.BatchNorm(use_running_average=not train)(images)
    return nn.Dense(10)(x.mean((1, 2))), (x,)


def test_every_choice_beside_its_counterpart(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(jax, 'local_devices', lambda: jax.devices()[:2])
  monkeypatch.setattr(step_loop, 'make_network', lambda config, axis_name=None: Network(Small(), (0,) * 3, (1,) * 3))
  path = tmp_path / 'rows.json'
  step_loop.main([*NETWORKS, '--batch=2', '--images=7', '--image_size=8', '--repeats=2', f'--json={path}'])
  written = json.loads(path.read_text())
  assert [(row['choice'], row['counterpart']) for row in written['rows']] == [
    (RESIDENT, STREAMED),
    (MANY_STEPS, ONE_STEP),
    ('bfloat16', 'float32'),
    (TOGETHER, IN_SEQUENCE),
  ]
  seconds = written['seconds']
  assert seconds[RESIDENT] == seconds[MANY_STEPS] == seconds['float32'] != seconds['bfloat16']
  separate = [seconds[f'student {i}, WRN-10-1 B(2)'] for i in (1, 2)]
  assert seconds[IN_SEQUENCE] == [first + second for first, second in zip(*separate, strict=True)]
  for row in written['rows']:
    for name in (row['choice'], row['counterpart']):
      # Three steps of two: the seventh image is in no batch.
      assert row['highest'][name] == pytest.approx(6 / min(seconds[name]))
      assert row['lowest'][name] <= row['images_per_second'][name] <= row['highest'][name]
  assert written['sharing'] == step_loop.sharing_gains(seconds, 2)
  assert written['flags']['networks'] == NETWORKS[1:] and 'commit' in written['environment']
  assert f'students in one run save {written["sharing"]["saved"]:.1f}% of the time' in capsys.readouterr().out


def test_ratios_are_those_of_the_medians():
  row = step_loop.compare_speeds('a', 'b', {'a': [1.0, 2.0, 50.0], 'b': [4.0, 5.0, 3.0]}, images=100)
  assert row['images_per_second'] == {'a': 50.0, 'b': 25.0} and row['ratio'] == 2.0
  assert (row['lowest'], row['highest']) == ({'a': 2.0, 'b': 20.0}, {'a': 100.0, 'b': 100 / 3})


def test_what_sharing_saves_beside_the_teacher():
  """Three students of 2 s, with a teacher of 1 s each: 9 s, and 7 s where one pass serves all."""
  times = {IN_SEQUENCE: [9.0], FORWARD: [1.0], TOGETHER: [7.0]}
  assert step_loop.sharing_gains(times, 3) == pytest.approx({'saved': 200 / 9, 'teacher': 100 / 3, 'spared': 200 / 9})


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--networks', 'S', 'G(N/8)'], '--networks: expected a teacher and at least two students'),
    (['--batch=12'], '--batch=12: expected a multiple of the 8 devices'),
    (['--batch=0'], '--batch=0: expected a multiple'),
    (['--batch=16', '--images=8'], '--images=8: expected at least the 16 of a batch'),
    (['--repeats=0'], '--repeats=0: expected at least 1'),
  ],
)
def test_what_does_not_fit_is_told_before_any_work(arguments, message, capsys, monkeypatch):
  monkeypatch.setattr(step_loop, 'make_runs', lambda *args: pytest.fail('work was begun'))
  monkeypatch.setattr(step_loop, 'Replicas', lambda: [object()] * 8)
  with pytest.raises(SystemExit):
    step_loop.main(arguments)
  assert message in capsys.readouterr().err
