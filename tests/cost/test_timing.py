import jax.numpy as jnp

from moonshine_jax.cost import timing


def test_calls_take_turns_in_an_order_that_is_drawn():
  events = []
  seconds = timing.time_in_turns({name: lambda name=name: events.append(name) for name in 'abc'}, repeats=6)
  assert {name: len(times) for name, times in seconds.items()} == {'a': 6, 'b': 6, 'c': 6}
  assert min(min(times) for times in seconds.values()) >= 0
  assert events[:6] == ['a', 'a', 'b', 'b', 'c', 'c']  # before any timing
  turns = [tuple(events[start : start + 3]) for start in range(6, 24, 3)]
  assert all(sorted(turn) == ['a', 'b', 'c'] for turn in turns) and len(set(turns)) > 1


def test_a_function_far_slower_than_the_fastest_is_timed_once(monkeypatch):
  times = iter([1.0, 9.0, 3.0, 2.0])
  monkeypatch.setattr(timing, '_time_calls', lambda function, args, calls: next(times))
  milliseconds = timing.time_compiled({'fast': jnp.sin, 'slow': jnp.cos}, (jnp.ones(3),), repeats=3, give_up=8.0)
  assert milliseconds == {'fast': (2000.0, 1000.0), 'slow': (9000.0, 9000.0)}
