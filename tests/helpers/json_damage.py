"""Damages of JSON: of the bytes of a file, and of the values in it. The same seed gives the same damage."""

import copy
import json
import random
from typing import Any

# What may stand in the place of any value, as the text of JSON.
STRANGE = (
  'null', 'true', '-1', '0', '1.5', '-0.0', '1e999', '-1e308', 'NaN', 'Infinity', '1' + 30 * '0', '1' + 5000 * '0',
  '9223372036854775807', '1000000000', '""', '"x"', '"\\u001b[31m"', '"\\udc80"', '"\\ud800"', '"\\u0000"',
  '"' + 5000 * 'a' + '"', '"../../x"', '"G(N/8)"', '"gone.py:f"', '[]', '{}', '[[]]', '[null]', '["x"]', '[-1]', '[0]',
  '{"a": 1}', '{"a.b": {}}', '[1e999]', '[' * 40 + ']' * 40, '[' * 100000, '{"a":' * 5000 + '1' + '}' * 5000,
)  # fmt: skip
PLACE = '@@@'


def damage(text: str, rng: random.Random) -> bytes:
  """Damages a file of one JSON object, or of one in each line, in one of several ways."""
  kind = rng.choice(('bytes', 'cut', 'value', 'value', 'value', 'missing', 'added', 'name', 'two'))
  if kind == 'bytes':
    return _flip(text.encode(), rng)
  if kind == 'cut':
    return text.encode()[: rng.randrange(len(text))]
  lines = [text] if text.startswith('{\n') or '"runs"' in text else text.splitlines()
  at = rng.randrange(len(lines))
  if kind == 'two':
    lines[at] = lines[at] * 2
  else:
    lines[at] = damage_values(json.loads(lines[at]), kind, rng)
  return ('\n'.join(lines) + '\n').encode()


def damage_values(values: Any, kind: str, rng: random.Random) -> str:
  """Returns the JSON of values of which one is replaced, missing, added, or has another name."""
  values = copy.deepcopy(values)
  holder, key = rng.choice(_places(values))
  strange = rng.choice(STRANGE)
  if kind == 'value':
    holder[key] = PLACE
  elif kind == 'missing':
    del holder[key]
  elif kind == 'added' and isinstance(holder, dict):
    holder[rng.choice(('x', 'items', 'a.b', '', '\udc80', 'epochs', 'name', '__class__', str(key)))] = PLACE
  elif kind == 'name' and isinstance(holder, dict):
    holder[rng.choice(('x', 'to_dict', '', '\x1b[31m'))] = holder.pop(key)
  elif isinstance(holder, list):
    holder.extend([PLACE, PLACE])
  return json.dumps(values).replace(f'"{PLACE}"', strange)


def _places(values: Any) -> list[tuple[Any, Any]]:
  """The container and the key of each value; those of few values are as likely as those of many."""
  places = []
  for key, value in values.items() if isinstance(values, dict) else enumerate(values[:3]):
    places.append((values, key))
    if isinstance(value, dict | list):
      places += _places(value)
  return places


def _flip(data: bytes, rng: random.Random) -> bytes:
  changed = bytearray(data)
  for _ in range(rng.choice((1, 1, 3, 20))):
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
  return bytes(changed)
