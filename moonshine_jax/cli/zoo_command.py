"""The commands `moonshine zoo` and `moonshine zoo add`, as the others in `commands`."""

from absl import flags
from absl.flags import FlagValues

from moonshine_jax.cli.command import command, define_data, define_trust_code


@command('zoo', 'moonshine_jax.cli.zoo')
def zoo(values: FlagValues) -> None:
  r"""Lists the trained networks that come with the package.

      moonshine zoo
      moonshine zoo --json
      moonshine evaluate --workdir=zoo:wrn-16-1-cifar10
      moonshine train --config=cifar10_20 --workdir=runs/student --config.model.block='G(N/8)' \
          --config.distill.teacher=zoo:wrn-16-1-cifar10 --config.distill.alpha=0

  For each: its network, its cost, its test error, and the run that made it. zoo:NAME stands for a workdir wherever one
  is read, and so does the path of a file of `moonshine zoo add`.
  """
  flags.DEFINE_bool('json', False, 'Prints JSON: sizes in bytes, errors in percent.', flag_values=values)


@command('zoo add', 'moonshine_jax.cli.zoo_add', arguments=('WORKDIR',), required=('out',))
def zoo_add(values: FlagValues) -> None:
  """Makes one file of a trained network, to share: it never runs code.

      moonshine zoo add runs/student --out=student.safetensors
      moonshine zoo add runs/teacher --out=teacher.safetensors --data=cifar10

  The file has the variables in float32, and what the workdir records: config, facts of the data, last metrics, and the
  starts of the run with their commands and hardware. Of a network of yours it has the name of the function, and not its
  code. In the folder moonshine_jax/zoo of a clone, NAME.safetensors comes with the package as zoo:NAME.
  """
  flags.DEFINE_string('out', None, 'The file to write, which ends in .safetensors.', flag_values=values)
  define_data(values)
  define_trust_code(values)
