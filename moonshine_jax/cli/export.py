"""Exports a trained network: `python -m moonshine_jax.export --workdir=DIR --format=stablehlo|onnx|tflite [--int8]`.

The file takes uint8 images (batch, height, width, channels) and gives logits. Before it is written, it is loaded by its
own runtime, its logits are compared with the network's on test images, and it is timed beside the teacher.
"""

import importlib.util
import json
import statistics
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags

from moonshine_jax import errors
from moonshine_jax.columns import aligned
from moonshine_jax.errors import UserError
from moonshine_jax.export import exporter, onnx, stablehlo, tflite
from moonshine_jax.models import factory
from moonshine_jax.runtime import files
from moonshine_jax.workdir.provenance import environment

FORMATS = {'stablehlo': stablehlo, 'onnx': onnx, 'tflite': tflite}

WORKDIR = flags.DEFINE_list('workdir', None, 'The workdir of a training run; several are separated by commas.')
flags.DEFINE_alias('workdirs', 'workdir')
FORMAT = flags.DEFINE_enum('format', None, list(FORMATS), 'Of the file.')
OUT = flags.DEFINE_string('out', None, 'The file to write; by default `network` with the suffix, in the workdir.')
INT8 = flags.DEFINE_bool('int8', False, 'Quantises weights and activations to 8 bits, and measures the test error.')
EXAMPLES = flags.DEFINE_integer('examples', None, 'Measures the test error on so many images only.', 1)
DATA_DIR = flags.DEFINE_string('data_dir', None, "Where the data is, in place of the config's data.data_dir.")
JSON = flags.DEFINE_bool('json', False, 'Prints JSON: sizes in bytes, latencies in seconds, errors in percent.')


def main() -> None:
  errors.require_flags(workdir=WORKDIR.value, format=FORMAT.value)
  runtime = FORMATS[FORMAT.value]
  check_flags(runtime)
  paths = [destination(workdir, runtime) for workdir in WORKDIR.value]
  check_installed(runtime)
  students = [exporter.read_reference(workdir, DATA_DIR.value, INT8.value) for workdir in WORKDIR.value]
  others = read_teachers(students)

  float32 = [exporter.export_network(trained, 'float32', runtime) for trained in [*others, *students]]
  int8 = [exporter.export_network(student, 'int8', runtime) for student in students] if INT8.value else []
  rows = measure([*float32, *int8])
  for version, path in zip(int8 or float32[len(others) :], paths, strict=True):
    files.write(path, version.content)
  if JSON.value:
    print(
      json.dumps(
        {
          'environment': environment(),
          'runtime': runtime.runtime_version(),
          'files': list(map(str, paths)),
          'rows': rows,
        },
        indent=1,
      )
    )
  else:
    tell(rows, paths, runtime)


def check_flags(runtime: ModuleType) -> None:
  """Raises UserError for what the format cannot do."""
  if INT8.value and not runtime.QUANTISES:
    raise UserError(f'--int8: --format={FORMAT.value} has no quantiser: expected --format=onnx or --format=tflite')
  if OUT.value and len(WORKDIR.value) > 1:
    raise UserError('--out: names one file: expected one --workdir with it')


def check_installed(runtime: ModuleType) -> None:
  """Raises UserError for the first module that the format needs and that is missing."""
  for name in runtime.MODULES:
    if importlib.util.find_spec(name) is None:
      raise UserError(f"--format={FORMAT.value}: {name} is not installed: pip install 'moonshine-jax[{FORMAT.value}]'")


def destination(workdir: str, runtime: ModuleType) -> Path:
  """The file to write. Raises UserError where there is one, or none can be made."""
  path = Path(OUT.value or Path(workdir) / ('network' + ('.int8' if INT8.value else '') + runtime.SUFFIX))
  if path.exists():
    raise UserError(f'{path}: is there already: expected a new file: remove it, or name another by --out')
  if OUT.value or path.parent.is_dir():  # what is wrong with a workdir is told where it is read
    with files.writing(path), tempfile.TemporaryFile(dir=path.parent):
      pass
  return path


def read_teachers(students: list[exporter.Reference]) -> list[exporter.Reference]:
  """Those of the students, for the table, that are not exported themselves and can be read."""
  teachers = {}
  for workdir in {teacher_of(student): None for student in students if teacher_of(student)}:
    if workdir not in [Path(student.workdir).absolute() for student in students]:
      try:
        teachers[workdir] = exporter.read_reference(str(workdir), DATA_DIR.value, calibrates=False)
      except UserError as error:
        errors.warn(f'the table is without a teacher: {error}')
  return list(teachers.values())


def teacher_of(trained: exporter.Reference) -> Path | None:
  """The teacher's workdir, if there is one."""
  return Path(trained.config.distill.teacher).absolute() if trained.config.distill.teacher else None


def measure(versions: list[exporter.ExportedNetwork]) -> list[dict[str, Any]]:
  """A row for each version, with its latency for one image, all taking turns."""
  seconds = exporter.measure_latencies(
    {i: (version.run, version.reference.images[:1]) for i, version in enumerate(versions)}
  )
  # The teachers' among them, in float32, by workdir.
  float32 = {
    Path(version.reference.workdir).absolute(): statistics.median(seconds[i])
    for i, version in enumerate(versions)
    if version.numbers == 'float32'
  }
  rows = []
  for i, version in enumerate(versions):
    rows.append(
      {
        'workdir': version.reference.workdir,
        'network': f'{factory.name(version.reference.config.model)} {version.reference.config.model.block}',
        'numbers': version.numbers,
        'formulation': version.formulation,
        'formulations': version.formulations,
        'operations': version.operations,
        'bytes': len(version.content),
        'difference': version.difference,
        'largest_logit': version.largest_logit,
        'agreeing': version.agreeing,
        'latency': statistics.median(seconds[i]),
        'latencies': seconds[i],
      }
    )
    if teacher_of(version.reference) in float32:
      rows[-1]['beside_teacher'] = rows[-1]['latency'] / float32[teacher_of(version.reference)]
    if INT8.value:
      rows[-1]['test_error'] = exporter.measure_test_error(version, EXAMPLES.value)
  return rows


def tell(rows: list[dict[str, Any]], paths: list[Path], runtime: ModuleType) -> None:
  """Prints what was compared, the table, and the files."""
  for row in rows:
    print(
      f'{row["workdir"]}, {row["numbers"]}: logits differ by at most {row["difference"]:.2g} (the largest is '
      f'{row["largest_logit"]:.2g}), {100 * row["agreeing"]:.1f}% of predictions agree'
    )
    if row['formulations']:
      tried = ', '.join(f'{name} {1e3 * seconds:.3f} ms' for name, seconds in row['formulations'].items())
      print(f'  grouped convolutions: {tried}: written as {row["formulation"]}')
  print()
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
  if INT8.value:
    columns['test error %'] = lambda row: f'{row["test_error"]:.2f}'
  print(aligned([list(columns), *([shown(row) for shown in columns.values()] for row in rows)], left=2))
  print(
    f'{runtime.runtime_version()}, one image at a time, one thread, medians of {exporter.REPEATS} in turns, '
    f'{environment()["processor"]}'
  )
  for path in paths:
    print(f'written: {path}')


if __name__ == '__main__':
  errors.run_command(main)
