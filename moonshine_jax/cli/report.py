"""`moonshine report`: the report of a folder of runs."""

from pathlib import Path

from absl.flags import FlagValues

from moonshine_jax.errors import say
from moonshine_jax.report import runs as runs_lib
from moonshine_jax.report import table_formats, writer
from moonshine_jax.runtime import files


def main(values: FlagValues, source: str) -> None:
  """Prints the table of the runs of a folder, or of a JSON file of runs, and writes the report."""
  latencies = writer.read_latencies(values.latency) if values.latency else None
  runs = runs_lib.read_runs(source, values.trust_code)
  out = values.out or default_folder(Path(source))
  say(table_formats.summary_markdown(runs))
  if published := table_formats.published_markdown(runs):
    say(f'\n{published}')
  if values.json:
    runs_lib.write_runs(runs, values.json)
  writer.write_report(source, runs, out, latencies)


def default_folder(source: Path) -> Path:
  """Returns the folder of the report of a folder of runs, or of a file. Raises UserError for a link out of there."""
  folder, name = (source, 'report') if source.is_dir() else (source.parent, f'{source.stem}-report')
  files.check_inside(folder / name, folder)
  return folder / name
