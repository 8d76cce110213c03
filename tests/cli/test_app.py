"""How commands end, as real processes."""

import os
import subprocess
import sys

import pytest

COMMAND = """
import sys, types
from moonshine_jax.cli import app, commands
sys.modules['lines'] = types.SimpleNamespace(main=lambda values: {})
commands.COMMANDS['lines'] = commands.Command('lines', 'lines', (), (), lambda values: None)
commands.COMMANDS['lines'].define_flags.__doc__ = 'Prints lines.'
app.run('lines')
"""


@pytest.mark.parametrize(
  ('code', 'flags'),
  [
    ('print("a line")', []),  # written at the end
    ('[print("many lines") for _ in range(10**5)]', []),  # while it runs
    ('print("a line")', ['--help']),
  ],
)
def test_output_that_nobody_reads_ends_a_command_without_a_word(code, flags):
  reader, writer = os.pipe()
  os.close(reader)
  process = subprocess.run([sys.executable, '-c', COMMAND.format(code), *flags], stdout=writer, stderr=subprocess.PIPE)
  os.close(writer)
  assert (process.returncode, process.stderr) == (128 + 13, b'')


def test_other_pipes_that_break_are_errors():
  code = '(print("a line"), os.write(writer, b"x"))'
  setup = 'import os; reader, writer = os.pipe(); os.close(reader); '
  process = subprocess.run([sys.executable, '-c', setup + COMMAND.format(code)], capture_output=True, text=True)
  assert process.returncode == 1 and process.stdout == 'a line\n' and 'BrokenPipeError' in process.stderr
