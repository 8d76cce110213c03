"""What a command of `moonshine` is, and the flags that several have.

Nothing here imports JAX, so that help comes at once: `app` imports the module of a command when it runs it.
"""

import dataclasses
import inspect
from collections.abc import Callable

from absl import flags
from absl.flags import FlagValues


@dataclasses.dataclass(frozen=True)
class Command:
  """A command of `moonshine`.

  Attributes:
    name: after `moonshine`.
    module: its `main` is called with the parsed flags, and with the arguments.
    arguments: the names of what it takes beside flags.
    required: the flags without which it does not run.
    define_flags: adds its flags to those given; its docstring is the command's manual.
  """

  name: str
  module: str
  arguments: tuple[str, ...]
  required: tuple[str, ...]
  define_flags: Callable[[FlagValues], None]

  @property
  def manual(self) -> str:
    """What the command does, with examples."""
    return inspect.getdoc(self.define_flags) or ''

  @property
  def summary(self) -> str:
    """The first line of the manual."""
    return self.manual.partition('\n')[0]


COMMANDS: dict[str, Command] = {}


def command(name: str, module: str, arguments: tuple[str, ...] = (), required: tuple[str, ...] = ()) -> Callable:
  """Makes a command of the function that defines its flags.

  Args:
    name: after `moonshine`.
    module: its `main` is called.
    arguments: the names of what it takes beside flags.
    required: the flags without which it does not run.
  """

  def register(define_flags: Callable[[FlagValues], None]) -> Callable[[FlagValues], None]:
    COMMANDS[name] = Command(name, module, arguments, required, define_flags)
    return define_flags

  return register


def define_data_dir(values: FlagValues) -> None:
  """Defines where the data is."""
  flags.DEFINE_string(
    'data_dir', None, "Where the data is, in place of the config's data.data_dir.", flag_values=values
  )


def define_data(values: FlagValues) -> None:
  """Defines what the data is called here, and where it is."""
  flags.DEFINE_string(
    'data',
    None,
    "The data, in place of the config's data.name: the same images, perhaps in another order, as cifar:ARCHIVE.",
    flag_values=values,
  )
  define_data_dir(values)


def define_trust_code(values: FlagValues) -> None:
  """Defines whether the functions of workdirs are trusted."""
  flags.DEFINE_bool(
    'trust_code',
    False,
    "Runs any user's function that a workdir names: also one that lies in it, that it has not recorded, that has "
    'changed since, or that you never named on this machine.',
    flag_values=values,
  )


def define_process_flags(values: FlagValues) -> None:
  """Defines the flags of a command that several processes can run together."""
  flags.DEFINE_bool(
    'distributed', False, 'One of several processes, as Slurm, Cloud TPU or Open MPI tell it.', flag_values=values
  )
  flags.DEFINE_string(
    'coordinator_address', None, 'HOST:PORT of process 0, where no cluster tells it.', flag_values=values
  )
  flags.DEFINE_integer('num_processes', None, 'Number of processes, where no cluster tells it.', flag_values=values)
  flags.DEFINE_integer(
    'process_id', None, 'Number of this process, from 0, where no cluster tells it.', flag_values=values
  )
