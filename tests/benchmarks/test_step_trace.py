import json
from types import SimpleNamespace as Some

import jax
import jax.numpy as jnp

from benchmarks import step_trace


def test_a_trace_of_each_network(tmp_path, capsys, monkeypatch):
  step = jax.jit(lambda x: jnp.tanh(x @ x))
  monkeypatch.setattr(
    step_trace, 'make_our_train_step', lambda *_: lambda: step(jnp.ones((64, 64))).block_until_ready()
  )
  path = tmp_path / 'rows.json'
  step_trace.main(['--networks', 'S', 'G(N/8)', f'--folder={tmp_path}', f'--json={path}'])
  rows = json.loads(path.read_text())['rows']
  assert [row['network'] for row in rows] == ['WRN-40-2 S', 'WRN-40-2 G(N/8)']
  for row in rows:
    assert row['trace'].startswith(f'{tmp_path}/') and row['operations']
    assert row['microseconds'] == sum(operation['microseconds'] for operation in row['operations'])
  assert 'operations a step' in capsys.readouterr().out


def plane(name, **lines):
  events = lambda durations: [Some(name=name, duration_ns=ns) for name, ns in durations]  # noqa: E731
  return Some(name=name, lines=[Some(name=line, events=events(durations)) for line, durations in lines.items()])


def test_operations_are_those_of_the_first_device():
  gpu = Some(planes=[
    plane('/host:CPU', tf_XLA=[('host', 9)]),
    plane('/device:GPU:1', **{'Stream #1(Compute)': [('other', 9)]}),
    plane('/device:GPU:0', **{'Stream #1(Compute)': [('conv', 5), ('add', 2), ('conv', 6)], 'Modules': [('m', 99)]}),
  ])  # fmt: skip
  tpu = Some(planes=[plane('/device:TPU:0', **{'XLA Ops': [('fusion', 4)], 'Steps': [('1', 9)]})])
  cpu = Some(planes=[plane('/host:CPU', tf_XLAEigen=[('dot', 3), ('ThunkExecutor::Execute', 9)], python=[('call', 9)])])
  assert list(step_trace.events_of_device(gpu)) == [('conv', 5), ('add', 2), ('conv', 6)]
  assert list(step_trace.events_of_device(tpu)) == [('fusion', 4)]
  assert list(step_trace.events_of_device(cpu)) == [('dot', 3)]


def test_events_are_summed_for_one_step():
  events = [('conv', 5000), ('add', 2000), ('conv', 6000)]
  assert step_trace.sum_operations(events, steps=2) == [
    {'name': 'conv', 'number': 1.0, 'microseconds': 5.5},
    {'name': 'add', 'number': 0.5, 'microseconds': 1.0},
  ]
