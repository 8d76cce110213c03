"""Misuse of the commands' flags: one line on stderr and exit status 2, for each of a table."""

import importlib.util
import json
import subprocess
import sys

# Runs each command line of a table in a fork of one process, which has imported what takes long.
RUNNER = """
import json, os, runpy, sys, traceback
import moonshine_jax.main
results = []
for arguments in json.load(sys.stdin):
  read, write = os.pipe()
  child = os.fork()
  if not child:
    os.dup2(write, 1)
    os.dup2(write, 2)
    sys.argv, status = arguments, 0
    try:
      runpy.run_module(arguments[0], run_name='__main__', alter_sys=True)
    except SystemExit as error:
      status = error.code
    except BaseException:
      traceback.print_exc()
      status = 1
    sys.stderr.flush()
    os._exit(status)  # at once: what the libraries do at exit takes seconds
  os.close(write)
  with os.fdopen(read) as output:
    results.append(output.read())
  results[-1] = (os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), results[-1])
json.dump(results, sys.stdout)
"""

DIGITS = '--config=configs/digits.py'
LONG = 'x' * 5000

# The command, its flags with @ for a folder, and the beginning of the line.
CASES = [
  ('moonshine_jax.evaluate', [], '--workdir is missing'),
  ('moonshine_jax.evaluate', ['--workdir'], 'Missing value for flag --workdir'),
  ('moonshine_jax.evaluate', ['--workdir=@'], '@: no checkpoint in it'),
  ('moonshine_jax.evaluate', [f'--workdir={LONG}'], f'{LONG[:100]}...: the name is too long for a file'),
  ('moonshine_jax.evaluate', ['--workdir=@', '--json=maybe'], 'flag --json=maybe: '),
  ('moonshine_jax.evaluate', ['--workdr=@'], "Unknown command line flag 'workdr'. Did you mean: workdir"),
  ('moonshine_jax.evaluate', ['@'], "unexpected argument '@': flags are written --name=value"),
  ('moonshine_jax.report', ['@'], '@: no finished run in it'),
  ('moonshine_jax.report', ['@/none'], '@/none: no such file or folder'),
  ('moonshine_jax.report', ['@', '@'], "unexpected argument '@'"),
  ('moonshine_jax.report', ['--json', '@'], 'the argument DIR is missing'),
  ('moonshine_jax.report', ['@/number.py'], '@/number.py: damaged ('),
  ('moonshine_jax.report', ['@', '--latency=@/none'], '--latency=@/none: cannot be read: No such file'),
  ('moonshine_jax.report', [LONG], f'{LONG[:100]}...: the name is too long for a file'),
  ('moonshine_jax.cost', ['--network=G(3)'], '--network: block G(3): 3 groups do not divide the 16 channels'),
  ('moonshine_jax.cost', ['--network=ResNet-19'], '--network: depth=19: expected 18, 34, 50 for a resnet'),
  ('moonshine_jax.cost', ['--network=ResNet-18 G(3)'], "--network: block='G(3)': block G(3): 3 groups do not divide"),
  ('moonshine_jax.cost', ['--network=@/none.py:network'], "--network: network='@/none.py:network': no file @/none.py"),
  (
    'moonshine_jax.cost',
    ['--network=@/number.py:get_config'],
    "--network: network='@/number.py:get_config': expected a function with a parameter num_classes",
  ),
  (
    'moonshine_jax.cost',
    ['--network=tests.helpers.user:no_module X'],
    "--network: block='X': 'X' is not a block: expected S, ",
  ),
  ('moonshine_jax.cost', ['--workdir=@'], '@: no config.json in it: expected the workdir of a training run'),
  ('moonshine_jax.cost', ['--workdir=@', '--image_size=8'], '--image_size: expected with --network: a workdir has'),
  ('moonshine_jax.cost', ['--table=5'], 'flag --table=5: value should be one of <3|4>'),
  ('moonshine_jax.cost', ['--image_size=0'], 'flag --image_size=0: 0 is not an integer in the range [1, 4096]'),
  ('moonshine_jax.cost', ['--network=WRN-10-1 S', '--max_params=9'], '--max_params=9: expected at least 78330, '),
  ('moonshine_jax.cost', ['--max_latency_ms=-1'], 'flag --max_latency_ms=-1: -1.0 is not a non-negative number'),
  ('moonshine_jax', ['attention'], '--workdirs is missing'),
  ('moonshine_jax', ['attention', '--workdirs=@'], '--out is missing'),
  ('moonshine_jax', ['attention', '--workdirs=@', '--images=', '--out=@/maps.png'], '--images is missing'),
  ('moonshine_jax', ['attention', '--workdirs=@', '--out=@/maps'], '--out=@/maps: expected a file that ends in'),
  ('moonshine_jax', ['attention', '--workdirs=@', '--out=@/maps.png'], '@: no checkpoint in it'),
  ('moonshine_jax.import_torch', [DIGITS, '--workdir=@/out'], 'the argument FILE is missing'),
  ('moonshine_jax.import_torch', ['@/none.pt', '--workdir=@/out'], '@/none.pt: no such file'),
  ('moonshine_jax.import_torch', ['@/none.pt', DIGITS], '--workdir is missing'),
  ('moonshine_jax.import_torch', ['@/none.pt', DIGITS, '--workdir=@/out'], '@/none.pt: no such file'),
  ('moonshine_jax.import_torch', ['@', DIGITS, '--workdir=@/out', '--std=0.2'], '--mean and --std: expected both, or'),
  ('moonshine_jax.import_torch', ['@', DIGITS, '--workdir=@/out', '--mean=x', '--std=0.2'], '--mean=x: could not co'),
  (
    'moonshine_jax.import_torch',
    ['@', DIGITS, '--workdir=@/out', '--mean=51', '--std=0.2'],
    '--mean=51: expected a '
    'number from 0 to 1 for each channel, as for transforms.Normalize: --mean=0.2000 if these are of 255',
  ),
  ('moonshine_jax.import_torch', ['@', DIGITS, '--workdir=@/out', '--mean=0', '--std=0'], '--std=0: expected a number'),
  ('moonshine_jax.export', [], '--workdir is missing'),
  ('moonshine_jax.export', ['--workdir=@'], '--format is missing'),
  ('moonshine_jax.export', ['--workdir=@', '--format=coreml'], 'flag --format=coreml: value should be one of '),
  ('moonshine_jax.export', ['--workdir=@', '--format=stablehlo', '--int8'], '--int8: --format=stablehlo has no quant'),
  ('moonshine_jax.export', ['--workdir=@,@', '--format=stablehlo', '--out=@/file'], '--out: names one file: expected'),
  ('moonshine_jax.export', ['--workdir=@', '--format=stablehlo', '--examples=0'], 'flag --examples=0: 0 is not'),
  ('moonshine_jax.export', ['--workdir=@', '--format=stablehlo', '--out=@/number.py'], '@/number.py: is there already'),
  ('moonshine_jax.export', ['--workdir=@', '--format=stablehlo', '--out=@/no/file'], '@/no/file: cannot be written: N'),
  ('launch.sweep', [], '--config is missing'),
  ('launch.sweep', [DIGITS], '--out is missing'),
  ('launch.sweep', [DIGITS, '--out=@/out', '--seeds=0'], 'flag --seeds=0: 0 is not an integer in the range [1, 1000]'),
  ('launch.sweep', [DIGITS, '--out=@/out', '--seeds=9999999'], 'flag --seeds=9999999: 9999999 is not an integer in'),
  ('launch.sweep', [DIGITS, '--out=@/out', '--blocks=S,,S'], "--blocks: '' is not a block"),
  ('launch.sweep', [DIGITS, '--out=@/out', '--blocks=' + 'S,' * 20000], '--blocks: 40,000 characters of notation'),
  ('launch.sweep', [DIGITS, '--out=@/out', '--blocks=G(3)'], "config.distill.students: 'block=G(3) alpha=0 beta=0': "),
  ('launch.sweep', [DIGITS, '--out=@/out', '--kd_forms=hintn'], "config.distill.students: 'block=G(N/8) "),
  ('launch.sweep', [DIGITS, '--out=@/out', '--workers=0'], 'flag --workers=0: 0 is not an integer in the range'),
  (
    'launch.sweep',
    [DIGITS, '--out=@/out', '--scale=0.5', '--config.data.train_split=test'],
    "--scale: config.data.train_split='test': expected train",
  ),
  ('launch.sweep', [DIGITS, '--out=@/out', '--scale=2'], 'flag --scale=2: 2.0 is not'),
  ('launch.sweep', [DIGITS, '--out=@/out', '--regimes=XY'], "--regimes: 'XY': expected some of none, KD, AT, KD+AT"),
  ('launch.sweep', ['--config=README.md', '--out=@/out'], '--config: README.md, line '),
  ('launch.sweep', ['--config=configs', '--out=@/out'], '--config: '),
  ('launch.sweep', ['--config=@/number.py', '--out=@/out'], '--config: expected a ConfigDict of get_config, not int'),
]
CASES += [
  (
    'moonshine_jax.export',
    ['--workdir=@', f'--format={extra}'],
    f"--format={extra}: {module} is not installed: pip install 'moonshine-jax[{extra}]'",
  )
  for extra, module in (('onnx', 'jax2onnx'), ('tflite', 'tensorflow'))
  if importlib.util.find_spec(module) is None
]


def test_misuse_is_one_line_and_status_2(tmp_path):
  (tmp_path / 'number.py').write_text('def get_config():\n  return 3\n')
  folder = str(tmp_path)
  lines = [[command, *(flag.replace('@', folder) for flag in flags)] for command, flags, _ in CASES]
  process = subprocess.run([sys.executable, '-c', RUNNER], input=json.dumps(lines), capture_output=True, text=True)
  results = json.loads(process.stdout)
  for (command, flags, message), (status, output) in zip(CASES, results, strict=True):
    assert status == 2, (command, flags, output[-500:])
    assert output.startswith('error: ' + message.replace('@', folder)), (command, flags, output)
    assert output.count('\n') == 1, (command, flags, output)
  assert sorted(path.name for path in tmp_path.iterdir() if path.name != '__pycache__') == ['number.py']
