"""`moonshine report`: the report of a folder of runs."""

from pathlib import Path

from absl.flags import FlagValues

from moonshine_jax.report import runs as runs_lib
from moonshine_jax.report import table_formats, writer


def main(values: FlagValues, source: str) -> None:
  """Prints the table of the runs of a folder, or of a JSON file of runs, and writes the report."""
  latencies = writer.read_latencies(values.latency) if values.latency else None
  runs = runs_lib.read_runs(source)
  path = Path(source)
  out = values.out or (path / 'report' if path.is_dir() else path.with_name(f'{path.stem}-report'))
  print(table_formats.summary_markdown(runs))
  if values.json:
    runs_lib.write_runs(runs, values.json)
  writer.write_report(source, runs, out, latencies)
