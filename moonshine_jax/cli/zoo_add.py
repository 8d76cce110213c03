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
  error = network.records[-1].get('test_error')
  say(
    f'written: {path}: {"no test error" if error is None else f"test error {error:.2f}%"}, as the run has recorded it'
  )
  say(f'to be read: moonshine evaluate --workdir={path}')
