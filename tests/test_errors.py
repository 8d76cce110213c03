import io
import sys

import pytest

from moonshine_jax import errors


@pytest.mark.parametrize(
  ('text', 'printed'),
  [
    ('G(N/8) ± é 数据 \U0001f600 $x$ \\', 'G(N/8) ± é 数据 \U0001f600 $x$ \\'),
    ('\x1b[31mred\x1b]0;title\x07', r'\x1b[31mred\x1b]0;title\x07'),
    ('a\r\n\tb\x7f\x80\x9b', r'a\r\n\tb\x7f\x80\x9b'),
    ('\u202eexe.\u2066\u200f', r'\u202eexe.\u2066\u200f'),
    ('\u200b\ufeff\xad\u2028', r'\u200b\ufeff\xad\u2028'),
    ('\udc80\ud800', r'\udc80\ud800'),
    ('\U000e0041', r'\U000e0041'),
    ('a\xa0b', r'a\xa0b'),
  ],
)
def test_what_no_reader_can_see_is_escaped(text, printed):
  assert errors.printable(text) == printed
  printed.encode()


def test_an_error_and_a_warning_are_one_line_that_moves_no_cursor(capsys):
  errors.tell('a\nb \x1b[2J\udc80')
  errors.warn('c\r\nd \u202e')
  assert capsys.readouterr().err == 'error: a b \\x1b[2J\\udc80\nwarning: c d \\u202e\n'


def test_lines_stay_lines_and_fit_the_encoding(monkeypatch):
  stdout = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
  monkeypatch.setattr(sys, 'stdout', stdout)
  errors.say('one ± two\n\x1b[31mthree \udc80')
  assert stdout.buffer.getvalue() == b'one \\xb1 two\n\\x1b[31mthree \\udc80\n'
