"""Text of runs that somebody else sends: in every file of a report it is shown, and does nothing."""

import csv
import dataclasses
import io
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from moonshine_jax import errors
from moonshine_jax.report import html, runs, table_formats, tables, writer
from tests.helpers.made_runs import START, make_run

HOSTILE = '\x1b[31m\u202e\udc80</script><img src=x onerror=alert(1)>"\'|`$x$ [a](b) =1\n# b\0'
SHOWN = '\\x1b[31m\\u202e\\udc80</script><img src=x onerror=alert(1)>"\'|`$x$ [a](b) =1\\n# b\\x00'


class Page(HTMLParser):
  """The tags, texts and attributes of a page."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.texts, self.attributes = [], [], {}
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    self.tags.append(tag)
    for name, value in attributes:
      self.attributes.setdefault(name, set()).add(value)

  def handle_data(self, data):
    self.texts.append(data)


@pytest.fixture(scope='module')
def hostile_runs():
  start = dict.fromkeys(START, HOSTILE)
  fields = {
    'epochs': 2,
    'data.name': f'{HOSTILE}.py:data',
    'data.train_split': HOSTILE,
    'model.network': f'{HOSTILE}.py:network',
  }
  teacher = make_run(HOSTILE, [5.0, 4.0], **fields)
  other = make_run('other', [5.0], **fields | {'data.train_split': 'train', 'model.network': 'a.py:network'})
  return [dataclasses.replace(run, starts=(start,)) for run in (teacher, other)]


@pytest.fixture(scope='module')
def folder(hostile_runs, tmp_path_factory):
  out = tmp_path_factory.mktemp('report')
  latencies = writer.Latencies(HOSTILE, 32, {f'{name}.py:network S': 2.0 for name in (HOSTILE, 'a')})
  writer.write_report(HOSTILE, hostile_runs, out, latencies)
  return out


def test_every_file_is_printable_text(folder):
  assert {path.suffix for path in folder.iterdir()} == {'.html', '.md', '.csv', '.svg'}
  for path in folder.iterdir():
    assert all(line.isprintable() for line in path.read_text('utf-8').split('\n')), path.name
    assert path.name.isascii()


def test_the_page_has_no_element_of_a_name(folder):
  page = Page((folder / 'index.html').read_text())
  assert page.tags.count('script') == 1 and 'img' not in page.tags
  assert SHOWN in page.texts and SHOWN in page.attributes['data-sort']
  assert not any(name.startswith('on') for name in page.attributes)


def test_figures_are_xml_whose_text_is_the_name(folder):
  texts = set()
  for path in folder.glob('*.svg'):
    root = ElementTree.fromstring(path.read_text())
    assert not any(element.tag.endswith(('script', 'img')) for element in root.iter())
    texts |= {element.text for element in root.iter() if element.tag.endswith('}text')}
  assert f'milliseconds an image, one at a time, on {SHOWN}'[:87] + '...' in texts


def test_a_name_is_one_cell_of_the_markdown(hostile_runs, folder):
  for text in (table_formats.summary_markdown(hostile_runs), next(folder.glob('*.md')).read_text()):
    rows = [line for line in text.split('\n') if line.startswith('|')]
    assert len({len(re.findall(r'(?<!\\)\|', row)) for row in rows}) == 1
    assert not re.search(r'(?<!\\)[`<\[]', text)
    assert '\n# b' not in text


def test_a_name_is_no_formula(hostile_runs):
  made = [dataclasses.replace(run, config=run.config.copy_and_resolve_references()) for run in hostile_runs]
  for run in made:
    run.config.data.name = '=cmd()'
  rows = list(csv.DictReader(io.StringIO(table_formats.table_csv(tables.make_tables(made)[0]))))
  assert {row['data'] for row in rows} == {"'=cmd()"}


def test_dollars_are_no_formula_and_letters_of_no_font_no_warning(tmp_path):
  run = make_run('run', [5.0], **{'epochs': 1, 'data.name': '数据$_$'})
  writer.write_report('x', [run], tmp_path, None)
  assert '>Test error on 数据$_$, by epoch<' in (tmp_path / 'data-learning-curves.svg').read_text()


def test_data_sets_with_alike_names_have_their_own_files_and_ids(tmp_path):
  made = [make_run(name, [5.0], **{'epochs': 1, 'data.name': name}) for name in ('a/b', 'a b', '数', '据')]
  writer.write_report('x', made, tmp_path, None)
  assert {path.name for path in tmp_path.glob('*.md')} == {'a-b.md', 'a-b-again.md', 'data.md', 'data-again.md'}
  ids = re.findall(r' id="([^"]+)"', (tmp_path / 'index.html').read_text())
  assert len(set(ids)) == len(ids) > 100


def test_runs_with_such_names_are_read_back(hostile_runs, tmp_path):
  safe = [dataclasses.replace(run, config=run.config.copy_and_resolve_references()) for run in hostile_runs]
  for run in safe:  # what may be no path is no name of code and data
    run.config.data.name, run.config.model.network = 'digits', 'a.py:network'
  runs.write_runs(safe, tmp_path / 'runs.json')
  again = runs.read_runs(tmp_path / 'runs.json')
  assert [run.name for run in again] == [HOSTILE, 'other'] and again[0].starts == safe[0].starts
  assert errors.printable(again[0].name) == SHOWN
  assert html.render_page('x', [(table, {}) for table in tables.make_tables(again)]).encode()
