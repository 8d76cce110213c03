"""`moonshine export`: a trained network as a file for another runtime."""

import importlib.util
import json
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl.flags import FlagValues
from tabulate import tabulate

from moonshine_jax.errors import UserError, printable, say, warn
from moonshine_jax.export import exporter, onnx, stablehlo, tflite
from moonshine_jax.models import factory
from moonshine_jax.runtime import files
from moonshine_jax.workdir.network_file import NetworkFile, open_workdir
from moonshine_jax.workdir.provenance import environment
from moonshine_jax.workdir.zoo import absolute_workdir

FORMATS = {'stablehlo': stablehlo, 'onnx': onnx, 'tflite': tflite}


def main(values: FlagValues) -> None:
  """Writes the networks of workdirs in a format, and prints how they compare."""
  runtime = FORMATS[values.format]
  check_flags(values, runtime)
  paths = destinations(values, runtime)
  check_installed(values.format, runtime)
  students = [
    exporter.read_reference(workdir, values.data_dir, values.int8, values.trust_code, values.data)
    for workdir in values.workdir
  ]
  teachers = read_teachers(students, values.trust_code)

  float32 = [exporter.export_network(trained, 'float32', runtime) for trained in [*teachers, *students]]
  int8 = [exporter.export_network(student, 'int8', runtime) for student in students] if values.int8 else []
  rows = measure([*float32, *int8])
  if values.int8:
    for row, version in zip(rows, [*float32, *int8], strict=True):
      row['test_error'] = exporter.measure_test_error(version, values.examples)
  for version, path in zip(int8 or float32[len(teachers) :], paths, strict=True):
    files.write_atomically(path, version.content)
  if values.json:
    made = {'environment': environment(), 'runtime': runtime.runtime_version(), 'files': list(map(str, paths))}
    print(json.dumps({**made, 'rows': rows}, indent=1))
  else:
    print_exports(rows, paths, runtime)


def check_flags(values: FlagValues, runtime: ModuleType) -> None:
  """Raises UserError for what the format cannot do."""
  if values.int8 and not runtime.QUANTISES:
    raise UserError(f'--int8: --format={values.format} has no quantiser: expected --format=onnx or --format=tflite')
  if values.out and len(values.workdir) > 1:
    raise UserError('--out: names one file: expected one --workdir with it')


def check_installed(name: str, runtime: ModuleType) -> None:
  """Raises UserError for the first module that the format needs and that is missing."""
  for module in runtime.MODULES:
    if importlib.util.find_spec(module) is None:
      raise UserError(f"--format={name}: {module} is not installed: pip install 'moonshine-jax[{name}]'")


def destinations(values: FlagValues, runtime: ModuleType) -> list[Path]:
  """Returns the file to write of each workdir. Raises UserError where two are the same, and as `destination`."""
  paths = [destination(workdir, values, runtime) for workdir in values.workdir]
  if twice := [path for path, times in Counter(paths).items() if times > 1]:
    raise UserError(f'{twice[0]}: the file of two networks: expected one of them at a time, with --out')
  return paths


def destination(workdir: str, values: FlagValues, runtime: ModuleType) -> Path:
  """Returns the file to write. Raises UserError where there is one, or none can be made."""
  suffix = ('.int8' if values.int8 else '') + runtime.SUFFIX
  read = open_workdir(workdir)
  default = f'{read.file.stem}{suffix}' if isinstance(read, NetworkFile) else Path(workdir) / f'network{suffix}'
  path = Path(values.out or default)
  if path.exists():
    raise UserError(f'{path}: is there already: expected a new file: remove it, or name another by --out')
  if values.out or path.parent.is_dir():  # what is wrong with a workdir is told where it is read
    with files.writing(path), tempfile.TemporaryFile(dir=path.parent):
      pass
  return path


def read_teachers(students: Sequence[exporter.Reference], trust_code: bool) -> list[exporter.Reference]:
  """Returns the students' teachers, for the table, less those that are exported too and those that cannot be read.

  A teacher's data is its student's, by whose name it is at hand.
  """
  data = {teacher_of(student): student.config.data for student in students if teacher_of(student)}
  teachers = []
  for workdir, of_student in data.items():
    if workdir not in [absolute_workdir(student.workdir) for student in students]:
      try:
        teachers.append(exporter.read_reference(workdir, of_student.data_dir, False, trust_code, data=of_student.name))
      except UserError as error:
        warn(f'the table is without a teacher: {error}')
  return teachers


def teacher_of(trained: exporter.Reference) -> str:
  """Returns the teacher's workdir; empty where there is none."""
  return absolute_workdir(trained.config.distill.teacher) if trained.config.distill.teacher else ''


def measure(versions: list[exporter.ExportedNetwork]) -> list[dict[str, Any]]:
  """A row for each version, with its latency for one image, all taking turns."""
  seconds = exporter.measure_latencies(
    {i: (version.run, version.reference.images[:1]) for i, version in enumerate(versions)}
  )
  # The teachers' among them, in float32, by workdir.
  float32 = {
    absolute_workdir(version.reference.workdir): statistics.median(seconds[i])
    for i, version in enumerate(versions)
    if version.numbers == 'float32'
  }
  rows = []
  for i, version in enumerate(versions):
    model, latency = version.reference.config.model, statistics.median(seconds[i])
    row = {
      'workdir': version.reference.workdir,
      'network': f'{factory.network_name(model)} {model.block}',
      'numbers': version.numbers,
      'formulation': version.formulation,
      'formulations': version.formulations,
      'operations': version.operations,
      'bytes': len(version.content),
      'difference': version.difference,
      'largest_logit': version.largest_logit,
      'agreeing': version.agreeing,
      'latency': latency,
      'latencies': seconds[i],
    }
    teacher = teacher_of(version.reference)
    if teacher in float32:
      row['beside_teacher'] = latency / float32[teacher]
    rows.append(row)
  return rows


def print_exports(rows: Sequence[dict[str, Any]], paths: Sequence[Path], runtime: ModuleType) -> None:
  """Prints what was compared, the table, and the files."""
  for row in rows:
    say(
      f'{row["workdir"]}, {row["numbers"]}: logits differ by at most {row["difference"]:.2g} (the largest is '
      f'{row["largest_logit"]:.2g}), {100 * row["agreeing"]:.1f}% of predictions agree'
    )
    if row['formulations']:
      tried = ', '.join(f'{name} {1e3 * seconds:.3f} ms' for name, seconds in row['formulations'].items())
      say(f'  grouped convolutions: {tried}: written as {row["formulation"]}')
  say('')
  columns = {
    'network': lambda row: row['network'],
    'numbers': lambda row: row['numbers'],
    'KiB': lambda row: f'{row["bytes"] / 1024:,.0f}',
    'ms': lambda row: f'{1e3 * row["latency"]:.3f}',
    'beside the teacher': lambda row: (
      '-'
      if 'beside_teacher' not in row
      else (f'{row["beside_teacher"]:.2f}' + (', not faster' if row['beside_teacher'] >= 1 else ''))
    ),
  }
  if 'test_error' in rows[0]:
    columns['test error %'] = lambda row: f'{row["test_error"]:.2f}'
  lines = [[printable(text(row)) for text in columns.values()] for row in rows]
  alignment = ['left'] * 2 + ['right'] * (len(columns) - 2)
  say(tabulate(lines, list(columns), 'plain', disable_numparse=True, colalign=alignment))
  say(
    f'{runtime.runtime_version()}, one image at a time, one thread, medians of {exporter.REPEATS} in turns, '
    f'{environment()["processor"]}'
  )
  for path in paths:
    say(f'written: {path}')
