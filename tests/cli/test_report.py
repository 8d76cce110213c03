import shutil

import pytest

from moonshine_jax.cli import app
from moonshine_jax.errors import MISTAKE
from tests.helpers import made_runs


def test_a_report_leaves_what_links_in_the_folder_lead_to(tmp_path, capsys):
  runs, elsewhere = tmp_path / 'runs', tmp_path / 'elsewhere'
  made_runs.write(runs / 'run', [30.0, 20.0], epochs=2)
  elsewhere.mkdir()
  (runs / 'report').symlink_to(elsewhere)
  with pytest.raises(SystemExit, match=f'^{MISTAKE}$'):
    app.run('report', [str(runs)])
  output = capsys.readouterr()
  assert output.err == f'error: {runs}/report: cannot be written: a link leads to {elsewhere}, out of {runs}\n'
  assert not output.out and not list(elsewhere.iterdir())

  (runs / 'report').unlink()
  (runs / 'report').mkdir()
  (tmp_path / 'precious').write_text('mine')
  for name in ('index.html', 'index.html.tmp', 'cifar10.md', '../runs.json'):
    (runs / 'report' / name).symlink_to(tmp_path / 'precious')
  app.run('report', [str(runs), f'--json={runs}/runs.json'])
  assert (tmp_path / 'precious').read_text() == 'mine'
  assert '<!DOCTYPE html>' in (runs / 'report' / 'index.html').read_text()
  shutil.rmtree(runs / 'report')

  (runs / 'runs-report').symlink_to(elsewhere)
  with pytest.raises(SystemExit, match=f'^{MISTAKE}$'):
    app.run('report', [f'{runs}/runs.json'])
  assert f'{runs}/runs-report: cannot be written: a link leads to {elsewhere}, out of {runs}' in capsys.readouterr().err
  app.run('report', [f'{runs}/runs.json', f'--out={runs}/runs-report'])  # what the user names may be a link
  assert (elsewhere / 'index.html').exists()
