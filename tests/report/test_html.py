"""The page as a browser's parser sees it."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from moonshine_jax.report import html, tables
from moonshine_jax.report import runs as runs_lib

RESULTS = Path(__file__).parents[2] / 'results'


class Page(HTMLParser):
  """The links, ids, texts and tags of a page, whose elements must be closed in order."""

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


def test_page_is_whole_escaped_and_refers_to_nothing_outside(report_folder):
  text = (report_folder / 'index.html').read_text()
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


def test_sorting_keys_are_numbers(report_folder):
  text = (report_folder / 'index.html').read_text()
  assert 'data-sort="2248954">2,248,954<' in text and 'data-sort="4.79">4.79 (1)<' in text
  assert 'data-sort="">missing<' in text


@pytest.mark.parametrize('name', ['digits.json', 'cifar10_reduced.json', 'table3_digits.json'])
def test_committed_runs_have_a_page(name):
  runs = runs_lib.read_runs(RESULTS / name)
  assert Page(html.render_page(name, [(table, {}) for table in tables.make_tables(runs)])).texts
