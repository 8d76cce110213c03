"""Data sets that a user-defined function returns as arrays."""

from collections.abc import Mapping

from moonshine_jax.data.arrays import ArraySource
from moonshine_jax.errors import UserError, shown
from moonshine_jax.runtime import user_functions

SPLITS = "{'train': (images, labels), 'test': (images, labels)}"  # what a user-defined function returns


class FunctionSource(ArraySource):
  """The data set that a user-defined function returns: {'train': (images, labels), 'test': (images, labels)}.

  The arrays are those that `ArraySource` takes. The function is called once, when the source is opened.
  """

  def __init__(self, name: str):
    """Calls the function.

    Args:
      name: of the function.

    Raises:
      UserError: for anything but such splits, in a line that names the function and the split.
    """
    where = f'config.data.name={name!r}'
    try:
      splits = user_functions.load(name)()
    except UserError as error:
      raise UserError(f'config.data.name={error}') from error
    except Exception as error:  # whatever the user's code raises
      raise UserError(
        f'{where}: {type(error).__name__}: {error}: expected a function that is called without arguments '
        f'and returns {SPLITS}'
      ) from error
    if not isinstance(splits, Mapping) or not splits or not all(isinstance(key, str) for key in splits):
      what = f'the keys {shown(list(splits))}' if isinstance(splits, Mapping) else f'a {type(splits).__name__}'
      raise UserError(f'{where}: returned {what}: expected {SPLITS}')
    super().__init__(name, splits)
