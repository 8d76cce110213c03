"""The first ten minutes of a new GPU or TPU: what is worth knowing of it, in the order of its worth.

  python -m benchmarks.accelerator --minutes=9 --out=gpu --config.data.name=cifar:cifar-10-python.tar.gz
  python -m benchmarks.accelerator --rehearse --minutes=60 --out=rehearsal   # tiny, on a CPU, to see that all runs

PIECES is the plan. Each piece is a process with a time of its own: one that is over it is stopped, one that fails is
told in a line, and the next one runs. A piece begins where its time fits into the minutes that are left. What is then
left goes to the paper's recipe, which saves every few epochs. The same command goes on: it leaves out what is done, and
gives what failed a second try. In the folder, `summary.txt` says at any time what is done, what is left and what the
command does next, and each piece has a folder with what it printed and measured. Compiled programs are kept in `cache`,
so that the next run begins warm. docs/guides/accelerator.md says what to send back.

Exit statuses: 0 where nothing is left, 75 where the same command goes on, 2 for a mistake.
"""

import argparse

from benchmarks.command import OneLineParser
from benchmarks.pieces import ROWS, Piece
from benchmarks.plan import Run
from moonshine_jax.errors import RESUME_ME, UserError

BF16 = '--dtype=bfloat16 --json={rows}'
NETWORKS = f"--networks S 'G(N/8)' 'BG(2,M/8)' 'B(2)' 'G(N)' {BF16}"
TWO = f"--networks S 'G(N/8)' {BF16}"
THREE = f"--networks 'WRN-16-2 S' 'WRN-16-2 G(N/8)' 'WRN-16-2 BG(2,M/8)' {BF16}"
STEP = '-m benchmarks.train_step --repeats=5'
RECIPE = '-m moonshine_jax.main --config=configs/cifar10.py {data} --config.model.dtype=bfloat16 --workdir={out}/runs/'
STUDENT = '--config.distill.teacher={out}/runs/teacher --config.distill.alpha=0'
AFTER = ('data', 'teacher')
SHARED = 'XLA_PYTHON_CLIENT_PREALLOCATE=false'  # the device's memory is for PyTorch too

# Of a rehearsal.
TINY = "--networks 'WRN-10-1 S' 'WRN-10-1 G(N/8)' --batch=8 --image_size=8"
TINIEST = '--config.model.depth=10 --config.model.width=1 --config.epochs=3 --config.optimizer.decay_epochs=(2,)'
TINIEST += " --config.checkpoint_every=1 --config.data.train_split='train[:256]' --config.data.test_split='test[:64]'"

# fmt: off
PIECES = (  # name, seconds, what for, command; in a rehearsal; where and when
  Piece('data', 60, 'are the data of the recipe there?',
        '-m moonshine_jax data {data_name} {data_dir} --out={out}/data.png',
        variables='JAX_PLATFORMS=cpu', always=True),
  Piece('device', 45, 'device, versions, target_config',
        '-m benchmarks.device --json={rows} --target_config={out}/target_config.txt', '--cpu', always=True),
  Piece('train_step_128', 300, "the recipe's batch, beside PyTorch eager",
        f'{STEP} {NETWORKS} --batch=128 --pytorch eager', f'{TINY} --repeats=1', variables=SHARED),
  Piece('cuda_graphs', 150, 'steps in CUDA graphs, and without',
        f'-m benchmarks.cuda_graphs {TWO} --graphs none concurrent', backend='gpu'),
  Piece('other_graphs', 150, 'steps in CUDA graphs in other ways',
        f'-m benchmarks.cuda_graphs {TWO} --graphs convolutions loop', backend='gpu'),
  Piece('train_step_1024', 240, 'a batch that fills the device, beside PyTorch eager',
        f'{STEP} {TWO} --batch=1024 --pytorch eager', f'{TINY} --repeats=1', variables=SHARED),
  Piece('correctness', 180, 'losses, convolutions and steps beside the CPU',
        '-m benchmarks.correctness --json={rows}', "--networks 'WRN-10-1 G(N/8)' --batch=8 --image_size=16"),
  Piece('profile', 120, 'where the time of a step goes',
        f'-m benchmarks.step_trace {TWO} --folder={{out}}/traces', TINY),
  Piece('grouped_conv', 240, 'the rule for grouped convolutions, as code',
        f'-m benchmarks.grouped_conv {BF16} --batch=128 --seconds=210', '--batch=2 --repeats=2 --seconds=20'),
  Piece('roofline', 60, "the steps' share of what the device can do",
        f'-m benchmarks.roofline {TWO} --batch=1024 --steps={{out}}/train_step_1024/{ROWS}', f'{TINY} --repeats=1',
        needs=('train_step_1024',)),
  Piece('inference', 90, 'latency and throughput of the forward pass',
        f'-m benchmarks.inference {NETWORKS}', f'{TINY} --repeats=2'),
  Piece('step_loop', 180, 'what feed, dispatch, dtype and a shared teacher are worth',
        f'-m benchmarks.step_loop {THREE} --images=12800 --repeats=3',
        "--networks 'WRN-10-1 S' 'WRN-10-1 B(2)' 'WRN-10-1 B(2)' --images=16 --batch=8 --image_size=8 --repeats=1"),
  Piece('compiled_128', 240, 'beside torch.compile',
        f'{STEP} {TWO} --batch=128 --pytorch compiled', variables=SHARED, backend='gpu', module='torch'),
  Piece('compiled_1024', 240, 'beside torch.compile',
        f'{STEP} {TWO} --batch=1024 --pytorch compiled', variables=SHARED, backend='gpu', module='torch'),
  Piece('teacher', 90, 'the recipe: WRN-40-2 S',
        f'{RECIPE}teacher', TINIEST, needs=('data',), lasting=True),
  Piece('g_n8', 90, 'the recipe: WRN-40-2 G(N/8), by attention transfer',
        f"{RECIPE}g_n8 {STUDENT} --config.model.block='G(N/8)'", TINIEST, needs=AFTER, lasting=True),
  Piece('bg_2_m8', 90, 'the recipe: WRN-40-2 BG(2,M/8), by attention transfer',
        f"{RECIPE}bg_2_m8 {STUDENT} --config.model.block='BG(2,M/8)'", TINIEST, needs=AFTER, lasting=True),
  Piece('s_16', 90, 'the recipe: WRN-16-2 S, by attention transfer',
        f'{RECIPE}s_16 {STUDENT} --config.model.depth=16', TINIEST, needs=AFTER, lasting=True),
  Piece('g_2', 90, 'the recipe: WRN-40-2 G(2), by attention transfer',
        f"{RECIPE}g_2 {STUDENT} --config.model.block='G(2)'", TINIEST, needs=AFTER, lasting=True),
)
# fmt: on


def main(arguments: list[str] | None = None) -> None:
  """Runs the pieces that are left and fit into the minutes, and prints a summary."""
  parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
  parser.add_argument('--minutes', type=float, default=9, help='that it may take in all (default: 9)')
  parser.add_argument('--out', required=True, help='folder of the results, of this run and of those that go on')
  parser.add_argument('--rehearse', action='store_true', help='tiny networks and few steps, on a CPU')
  parser.add_argument('--config.data.name', dest='data_name', help='as config.data.name (default: cifar10, of TFDS)')
  parser.add_argument('--config.data.data_dir', dest='data_dir', default='', help='as config.data.data_dir')
  flags = parser.parse_args(arguments)
  if not 1 <= flags.minutes <= 24 * 60:
    parser.error(f'--minutes={flags.minutes:g}: expected at least 1, and at most a day')
  flags.data_name = flags.data_name or ('digits' if flags.rehearse else 'cifar10')
  try:
    raise SystemExit(RESUME_ME if Run(flags, PIECES).go_on() else 0)
  except UserError as error:
    parser.error(str(error))


if __name__ == '__main__':
  main()
