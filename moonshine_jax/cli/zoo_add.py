"""`moonshine zoo add`: one file of the network in a workdir."""

from pathlib import Path

from absl.flags import FlagValues

from moonshine_jax.errors import UserError, say
from moonshine_jax.runtime import files
from moonshine_jax.workdir.sharing import share_network
from moonshine_jax.workdir.zoo import SUFFIX


def main(values: FlagValues, workdir: str) -> None:
  """Writes the file, and prints how it is named."""
  path = Path(values.out)
  if path.suffix != SUFFIX:
    raise UserError(f'--out={path}: expected a file that ends in {SUFFIX}')
  files.check_local(path)
  if path.exists():
    raise UserError(f'{path}: is there already: expected a new file: remove it, or name another by --out')
  network = share_network(workdir, path, values.data, values.data_dir, values.trust_code)
  record, epochs = network.records[-1], network.config.epochs
  error = f'test error {record["test_error"]:.2f}%' if 'test_error' in record else 'no test error'
  after = f' after {record["epoch"]} of {epochs} epochs' * (record['epoch'] < epochs)
  say(f'written: {path}: {error}{after}, as the run has recorded it')
  say(f'to be read: moonshine evaluate --workdir={path}')
