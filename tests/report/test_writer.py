"""The command: its files, the page as a browser's parser sees it, and what README shows of it."""

import csv
import html.parser
import json
import sys
from pathlib import Path

import pytest

from moonshine_jax import paper, report
from moonshine_jax.errors import UserError
from moonshine_jax.report import html, table_formats, tables, writer
from moonshine_jax.report import runs as runs_lib
from tests.helpers.made_runs import make_run, make_table

ROOT = Path(__file__).parents[2]


class Page(html.parser.HTMLParser):
  """What a page refers to, its text, and whether its elements are closed in order."""

  VOID = ('meta', 'br')

  def __init__(self, text):
    super().__init__()
    self.links, self.ids, self.texts, self.tags, self.open = [], [], [], [], []
    self.feed(text)
    assert not self.open

  def handle_starttag(self, tag, attributes):
    self.tags.append(tag)
    if tag not in self.VOID:
      self.open.append(tag)
    for name, value in attributes:
      if name in ('href', 'src', 'xlink:href', 'action', 'data', 'poster', 'srcset'):
        self.links.append(value)
      if name == 'id':
        self.ids.append(value)

  def handle_startendtag(self, tag, attributes):
    self.handle_starttag(tag, attributes)
    self.handle_endtag(tag)

  def handle_endtag(self, tag):
    if tag not in self.VOID:
      assert self.open.pop() == tag

  def handle_data(self, data):
    self.texts.append(data)


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """A report of Table 3 and of another data set, with latencies of three networks."""
  out = tmp_path_factory.mktemp('report')
  latencies = out / 'latency.json'
  latencies.write_text(
    json.dumps(
      {
        'environment': {'device': 'a <phone>'},
        'flags': {'image_size': 32},
        'rows': [
          {'network': name, 'latency': 0.001 * i}
          for i, name in enumerate(['WRN-40-2 S', 'WRN-40-2 G(N/8)', 'WRN-16-1 S'], start=1)
        ],
      }
    )
  )
  other = make_run('<script>alert(1)</script>', [3.0], **{'epochs': 1, 'data.name': 'a&b/c'})
  writer.write_report('<runs>', [*make_table(paper.TABLE_3), other], out, writer.read_latencies(latencies))
  return out


def test_files(written):
  assert {path.name for path in written.iterdir()} == {
    'latency.json',
    'index.html',
    'a-b-c.md',
    'a-b-c.csv',
    'a-b-c-parameters.svg',
    'a-b-c-multiply-adds.svg',
    'a-b-c-latency.svg',
    'a-b-c-learning-curves.svg',
    'cifar10.md',
    'cifar10.csv',
    'cifar10-parameters.svg',
    'cifar10-multiply-adds.svg',
    'cifar10-latency.svg',
    'cifar10-learning-curves.svg',
  }
  for name in ('parameters', 'multiply-adds'):
    svg = (written / f'cifar10-{name}.svg').read_text()
    assert all(f'>{row.block}<' in svg for row in paper.TABLE_3[4:])
  assert '>G(N/8)<' in (written / 'cifar10-latency.svg').read_text()
  assert '>G(2)<' not in (written / 'cifar10-latency.svg').read_text()
  with open(written / 'cifar10.csv', newline='') as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 1 + 25 * 3
  assert {float(row['difference']) for row in rows if row['runs'] == '1'} == {0.0}


def test_page_is_whole_escaped_and_refers_to_nothing_outside(written):
  text = (written / 'index.html').read_text()
  parsed = Page(text)
  assert all(link.startswith('#') and link[1:] in parsed.ids for link in parsed.links)
  assert len(set(parsed.ids)) == len(parsed.ids)
  assert parsed.tags.count('script') == parsed.tags.count('style') - parsed.tags.count('svg') == 1
  assert parsed.tags.count('svg') == 8
  for shown in (
    '<script>alert(1)</script>',
    '<runs>',
    'Test error on a&b/c',
    'Table 3: test error on CIFAR-10',
    '5.06 (1)',
    'missing',
    'abc123',
    'python -m moonshine_jax.main --config=<x> & more',
    'AT released, beta 1000 (25 runs)',
    '1 x NVIDIA H100; AMD EPYC, 8 cores',
  ):
    assert shown in parsed.texts, shown
  assert not any(word in text.replace('http://www.w3.org/', '') for word in ('http:', 'https:', '@import', 'url(//'))


def test_sorting_keys_are_numbers(written):
  """What the page's script sorts by: the cells' data-sort."""
  text = (written / 'index.html').read_text()
  assert 'data-sort="2248954">2,248,954<' in text and 'data-sort="4.79">4.79 (1)<' in text
  assert 'data-sort="">missing<' in text


def test_without_matplotlib_there_are_tables(tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, 'matplotlib', None)
  monkeypatch.delitem(sys.modules, 'moonshine_jax.report.figures', raising=False)
  monkeypatch.delattr(report, 'figures', raising=False)
  writer.write_report('runs', [make_run('run', [3.0], epochs=1)], tmp_path, None)
  assert {path.name for path in tmp_path.iterdir()} == {'index.html', 'cifar10.md', 'cifar10.csv'}
  assert capsys.readouterr().err == (
    "warning: Matplotlib is not installed, so there are no figures: pip install 'moonshine-jax[report]'\n"
  )
  assert '<svg' not in (tmp_path / 'index.html').read_text()


def test_latencies_of_images_of_another_size_are_left_out(capsys):
  latencies = writer.Latencies('a phone', 8, {'WRN-40-2 S': 1.0})
  drawn = writer.draw_figures(tables.make_tables([make_run('run', [3.0], epochs=1)])[0], latencies)
  assert [name for name, _ in drawn] == ['parameters', 'multiply-adds', 'learning-curves']
  assert capsys.readouterr().err == 'warning: --latency: of images with a side of 8: expected 32, that of cifar10\n'


@pytest.mark.parametrize(
  'text',
  [
    '{',
    '{"rows": []}',
    '{"environment": {"device": "x"}, "image_shape": [8], "rows": [{"network": "X", "latency": 1}]}',
    '{"environment": {"device": "x"}, "image_shape": [8], "rows": [{"network": "WRN-40-2 S", "latency": "fast"}]}',
  ],
)
def test_latencies_that_are_none(text, tmp_path):
  (tmp_path / 'latency.json').write_text(text)
  with pytest.raises(UserError, match='latency.json: .*expected JSON with rows of network and latency'):
    writer.read_latencies(tmp_path / 'latency.json')


@pytest.mark.parametrize(
  ('runs', 'page_of_it', 'number'),
  [
    ('digits.json', 'README.md', 10),
    ('cifar10_reduced.json', 'results/README.md', 22),
    ('table3_digits.json', 'results/README.md', 76),
  ],
)
def test_the_tables_of_the_readmes_are_those_of_the_committed_runs(runs, page_of_it, number):
  found = runs_lib.read_runs(ROOT / 'results' / runs)
  assert table_formats.summary_markdown(found) in (ROOT / page_of_it).read_text()
  assert len(found) == number and all(run.finished and run.starts[0]['commit'] for run in found)
  assert '+' not in ''.join(run.starts[0]['commit'] for run in found)  # of a commit, without changes
  assert Page(html.render_page(runs, [(table, {}) for table in tables.make_tables(found)])).texts
