"""The command `moonshine search`: its manual and its flags, as those of the others in `commands`."""

from absl import flags
from absl.flags import FlagValues

from moonshine_jax.cli.command import command, define_data, define_trust_code


@command('search', 'moonshine_jax.cli.search', required=('teacher', 'out'))
def search(values: FlagValues) -> None:
  """Finds the best mixture of cheap blocks for a trained network, within a budget.

      moonshine search --teacher=runs/teacher --out=runs/search --max_params=80000
      moonshine search --teacher=runs/teacher --out=runs/search --max_macs=8e6 --max_latency_ms=2.5
      moonshine search --teacher=runs/teacher --out=runs/front --max_params=120000,80000,60000

  Every candidate learns alone, at every place of the teacher, what the teacher has there, and is scored alone in it on
  training images that are held out. An integer program chooses one for each place; the best choices are put together
  and compared. Networks are in OUT/networks, workdirs that `train` starts from (config.distill.start), and that
  `evaluate`, `cost`, `report` and `export` take. Of the budgets, all that are given hold at once; one of them may be a
  list, for a network each. The table of all networks beside the uniform ones is OUT/front.md.

  Started again it goes on, and with another budget it trains nothing anew.
  """
  flags.DEFINE_string(
    'teacher', None, 'Workdir of the trained network, or a network in a file or by zoo:NAME.', flag_values=values
  )
  flags.DEFINE_string('out', None, 'Folder for all that the search leaves.', flag_values=values)
  flags.DEFINE_string(
    'candidates', '', "Notations, separated by commas (default: the paper's, as S-2x2,G(2),B(2)).", flag_values=values
  )
  for name, meaning in (
    ('max_params', 'Most parameters, as the paper counts them'),
    ('max_macs', 'Most multiply-adds of one image'),
    ('max_latency_ms', 'Most milliseconds of a call on this machine'),
  ):
    flags.DEFINE_list(name, [], f'{meaning}: a number, or several separated by commas.', flag_values=values)
  flags.DEFINE_integer('epochs', 1, 'Epochs in which the candidates learn.', 1, flag_values=values)
  flags.DEFINE_float('held_out', 0.1, 'Share of the training images that is held out.', 0, 0.5, flag_values=values)
  flags.DEFINE_integer('together', 4, 'Candidates that learn in one run.', 1, 100, flag_values=values)
  flags.DEFINE_integer(
    'batch_size', 0, "Images in a step, over all devices; 0 for the teacher's.", 0, flag_values=values
  )
  flags.DEFINE_integer('seed', 0, 'Of the order of the images.', 0, 2**32 - 1, flag_values=values)
  flags.DEFINE_integer('latency_batch', 1, 'Images in a call that is timed.', 1, flag_values=values)
  flags.DEFINE_enum(
    'score', 'kl', ['kl', 'ce'], 'Loss that is compared: from the teacher, or from the labels.', flag_values=values
  )
  flags.DEFINE_integer('solutions', 5, 'Networks that are put together and compared.', 1, 1000, flag_values=values)
  flags.DEFINE_integer('distance', 1, 'Places in which any two of them differ.', 1, flag_values=values)
  flags.DEFINE_integer(
    'tune_epochs', 0, "Epochs in which each of them learns the teacher's logits first.", 0, flag_values=values
  )
  define_data(values)
  define_trust_code(values)
