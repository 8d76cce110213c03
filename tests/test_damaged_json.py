"""Every JSON file that is read, damaged: the reader says what is wrong in one line, or gives values."""

import json
import random
import shutil
import zlib

import pytest

from moonshine_jax.configs import digits
from moonshine_jax.data.splits import Facts
from moonshine_jax.errors import UserError, printable
from moonshine_jax.report import html, table_formats, tables, writer
from moonshine_jax.report import runs as runs_lib
from moonshine_jax.workdir import metrics
from moonshine_jax.workdir.trained import Trained
from moonshine_jax.workdir.workdir import Workdir
from tests.helpers import made_runs
from tests.helpers.json_damage import damage, damage_values
from tests.helpers.saved_networks import save_network

TIMES = 40  # that each file is damaged
SMALL = {'model.depth': 10, 'model.width': 1, 'epochs': 2}
LATENCIES = {
  'environment': {'device': 'cpu', 'processor': 'AMD EPYC'},
  'image_shape': [32, 32, 3],
  'rows': [{'network': 'WRN-10-1 S', 'latency': 0.001}, {'network': 'WRN-10-1 G(N/8)', 'latency': 0.002}],
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder with a file of each kind: two workdirs, the runs of both, latencies, and a checkpoint."""
  folder = tmp_path_factory.mktemp('json')
  made_runs.write(folder / 'runs' / 'teacher', [9.0, 5.0], **SMALL)
  student = {'model.block': 'G(N/8)', 'distill.teacher': str(folder / 'runs' / 'teacher'), 'distill.alpha': 0.0}
  made_runs.write(folder / 'runs' / 'student', [8.0, 6.0], **SMALL, **student)
  runs_lib.write_runs(runs_lib.collect_runs(folder / 'runs'), folder / 'runs.json')
  (folder / 'latency.json').write_text(json.dumps(LATENCIES))
  (folder / 'saved').mkdir()
  save_network(folder / 'saved', digits.get_config(), Facts((8, 8, 1), 10, (78.0,), (95.0,)))
  return folder


def show_runs(runs):
  made = tables.make_tables(runs)
  texts = [table_formats.summary_markdown(runs), html.render_page('x', [(table, {}) for table in made])]
  return [text.encode() for text in texts]


def read_workdirs(folder):
  show_runs(runs_lib.read_runs(folder / 'runs'))
  _ = Workdir(folder / 'runs' / 'student').facts


def read_records(folder):
  metrics.read(folder / 'runs' / 'student')
  read_workdirs(folder)


def read_results(folder):
  runs = runs_lib.read_runs(folder / 'runs.json')
  show_runs(runs)
  runs_lib.write_runs(runs, folder / 'again.json')


READERS = {
  'runs/student/metrics.jsonl': read_records,
  'runs/student/environment.jsonl': read_workdirs,
  'runs/student/config.json': read_workdirs,
  'runs.json': read_results,
  'latency.json': lambda folder: writer.read_latencies(folder / 'latency.json'),
  'saved/checkpoints/1/metadata/metadata': lambda folder: Trained.open(folder / 'saved').network,
}


@pytest.mark.parametrize('file', READERS)
def test_a_damaged_file_is_one_line_or_values(folder, tmp_path, file):
  shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
  text = (tmp_path / file).read_text()
  rng, refused = random.Random(file), 0
  for _ in range(TIMES):
    data = damage(text, rng) if file.endswith(('.json', '.jsonl')) else damage_metadata(text, rng)
    (tmp_path / file).write_bytes(data)
    try:
      READERS[file](tmp_path)
    except UserError as error:
      refused += 1
      assert str(tmp_path) in str(error) and len(printable(str(error))) < 2000
    except Exception as error:
      raise AssertionError(f'{file}: {data[:2000]!r}') from error
  assert TIMES > refused > TIMES / 3


def damage_metadata(text, rng):
  """Metadata with a value that was not written, and the checksum of what it says."""
  values = json.loads(text)
  values['epoch_metrics'] = {'loss': [1.0, 2.0], 'wrong': [1.0, 0.0]}
  del values['crc32']
  while True:
    changed = damage_values(values, rng.choice(('value', 'value', 'value', 'missing', 'added', 'name')), rng)
    try:
      changed = json.loads(changed)
      return json.dumps({**changed, 'crc32': zlib.crc32(json.dumps(changed, sort_keys=True).encode())}).encode()
    except (ValueError, RecursionError):  # no JSON, of which there is no checksum
      continue


@pytest.mark.parametrize(
  ('path', 'value', 'message'),
  [
    (('config', 'model', 'width'), -1, r'config.model.width=-1: expected an integer of at least 1 and at most 1000'),
    (('config', 'model', 'depth'), 10**9, r'config.model.depth=1000000000: expected a depth of at most 1204'),
    (('config', 'model', 'depth'), '40', r"config.model.depth='40': expected an integer"),
    (('config', 'x\x1b'), 1, r'config.x\\x1b: no such field'),
    (('data', 'image_shape'), [8, 8], r'images of \(8, 8\) with 1 means and 1 deviations - at `\$.data`'),
    (('data', 'num_classes'), 10**9, r'Expected `int` <= 1000000 - at `\$.data.num_classes`'),
    (('data', 'std'), [0.0], r'Expected `float` > 0.0 - at `\$.data.std\[0\]`'),
    (('epoch_metrics',), {'loss': [1e300]}, r'Expected `float` <= 3.4\S+ - at `\$.epoch_metrics\[...\]\[0\]`'),
    (('epoch_metrics',), {'loss': [1.0], 'wrong': []}, 'the metrics of the present epoch are not of as many steps'),
    (('arrays',), [], r'Expected `object`, got `array` - at `\$.arrays`'),
  ],
)
def test_metadata_with_a_right_checksum_are_checked(folder, tmp_path, path, value, message):
  shutil.copytree(folder / 'saved', tmp_path / 'saved')
  file = tmp_path / 'saved/checkpoints/1/metadata/metadata'
  values = json.loads(file.read_text())
  del values['crc32']
  holder = values
  for name in path[:-1]:
    holder = holder[name]
  holder[path[-1]] = value
  file.write_text(json.dumps({**values, 'crc32': zlib.crc32(json.dumps(values, sort_keys=True).encode())}))
  with pytest.raises(UserError, match=rf'^{tmp_path}/saved/checkpoints/1: damaged \({message}.*no good checkpoint'):
    Trained.open(tmp_path / 'saved')
