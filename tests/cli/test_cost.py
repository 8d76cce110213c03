"""`moonshine cost` as a user runs it."""

import json

import jax
import pytest

from moonshine_jax.cli import app
from moonshine_jax.configs import cifar10
from moonshine_jax.models.network import Network
from moonshine_jax.models.wide_resnet import WideResNet
from moonshine_jax.runtime import files
from moonshine_jax.training import optimizer
from moonshine_jax.training import step as step_lib
from moonshine_jax.workdir.workdir import Workdir
from tests.helpers import made_runs, run_processes


def run_command(folder, *flags):
  result = run_processes.run_module(folder, 'moonshine_jax.cost', '--image_size=8', '--layers', '--json', *flags)
  assert result.returncode == 0, result.stderr
  return json.loads(result.stdout)


def test_a_network_of_the_paper_is_counted_and_timed_and_its_checkpoint_weighed(tmp_path):
  # G(2) has too many parameters.
  result = run_command(
    tmp_path, '--max_latency_ms=1e6', '--max_params=500000', '--network=G(2)', '--network=WRN-16-1 S'
  )
  assert result['environment']['backend'] and (result['num_classes'], result['image_shape']) == (10, [8, 8, 3])
  (row,) = result['rows']
  assert (row['network'], row['paper_error']) == ('WRN-16-1 S', 7.72)
  assert (row['parameters'], row['layers'][-1]['path']) == (175_994, 'fc')
  assert len(row['latencies']) == 15 and min(row['latencies']) <= row['latency'] <= max(row['latencies'])
  # What the checkpoint of a run has in it.
  network = Network(WideResNet(16, 1, 'S', 10), (0.0,) * 3, (1.0,) * 3)
  tx = optimizer.create_optimizer(cifar10.get_config(), 1)
  state = jax.eval_shape(lambda key: step_lib.create_train_state(network, (8, 8, 3), tx, key, key), jax.random.key(0))
  assert row['checkpoint_bytes'] == 4 * sum(leaf.size for leaf in jax.tree.leaves(state))
  assert row['deployed_bytes'] == 4 * sum(leaf.size for leaf in jax.tree.leaves(state.variables))


def test_command_of_any_network(tmp_path):
  made_runs.write(tmp_path / 'run', [], **{'model.network': 'tests.helpers.user:with_norm', 'data.name': 'digits'})
  result = run_command(
    tmp_path,
    f'--workdir={tmp_path}/run',
    '--trust_code',  # nothing was recorded
    '--network=tests/helpers/user.py:caching G(2)',
    '--network=WRN-10-1 S',
    '--network=WRN-16-1 S',
    '--max_params=200000',
  )
  # The networks with an error of the paper's come first.
  assert [row['network'] for row in result['rows']] == ['WRN-16-1 S', 'caching G(2)', 'WRN-10-1 S', 'with_norm S']
  assert 'image_shape' not in result  # they differ: the workdir's images are those of its data
  user_row, run = result['rows'][1], result['rows'][3]
  assert user_row['function'] == 'tests/helpers/user.py:caching' and user_row['layers'][2]['path'] == 'Conv_0/bn'
  assert user_row['checkpoint_bytes'] is None  # it has variables that no train step carries
  stem, stages, fully_connected = 32 * 32 * 9 * 3 * 8, 16 * 16 * 9 * 8 * 8 + 8 * 8 * 9 * 8 * 16, 16 * 10
  assert (run['workdir'], run['image_shape']) == (f'{tmp_path}/run', [32, 32, 3])
  assert run['multiply_adds'] == stem + stages + fully_connected


def test_a_network_whose_code_may_not_run_costs_what_its_run_recorded(tmp_path, capsys):
  code = tmp_path / 'run' / 'code.py'
  made_runs.write(tmp_path / 'run', [], **{'model.network': f'{code}:network'})
  code.write_text('raise SystemExit("it ran")')
  (start,) = Workdir(tmp_path / 'run').starts
  files.append_record(
    tmp_path / 'run' / 'environment.jsonl', {**start, 'cost': {'parameters': 1234, 'multiply_adds': 56789}}
  )
  app.run('cost', [f'--workdir={tmp_path}/run', '--max_params=2000'])
  output = capsys.readouterr()
  assert output.out.splitlines()[1].split() == ['network', 'S', '1,234', '-', '56,789', '-', '-', '-', '-']
  refusal = f"{tmp_path}/run: '{code}:network': not run: {code} lies in {tmp_path}/run, which is read: expected --trust"
  assert output.err.startswith(f'warning: {refusal}') and output.err.endswith('has recorded is all that is known\n')
  for flag in ('--layers', '--latency', '--max_latency_ms=1'):
    with pytest.raises(SystemExit, match='^2$'):
      app.run('cost', [f'--workdir={tmp_path}/run', flag])
    assert capsys.readouterr().err.startswith(f'error: {refusal}')
