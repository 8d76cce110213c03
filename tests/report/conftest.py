import json

import pytest

from moonshine_jax import paper
from moonshine_jax.report import writer
from tests.helpers.made_runs import make_run, make_table


@pytest.fixture(scope='session')
def report_folder(tmp_path_factory):
  """A folder with the report of Table 3 and of another data set, with latencies of three networks."""
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
