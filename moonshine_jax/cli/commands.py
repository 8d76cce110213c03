"""The commands of `moonshine`: the manual and the flags of each.

Nothing here imports JAX, so that help comes at once.
"""

from absl import flags
from absl.flags import FlagValues
from ml_collections import config_flags

from moonshine_jax.cli.command import command, define_data, define_data_dir, define_process_flags, define_trust_code

OR_FILE = ', or a network in a file or by zoo:NAME'  # for a workdir that is read alone
CONFIG_HELP = 'Path of a config, or the name of one in configs/; each of its fields is a flag --config.FIELD.'


@command('train', 'moonshine_jax.main', required=('config', 'workdir'))
def train(values: FlagValues) -> None:
  r"""Trains a network, or distils a teacher into students.

      moonshine train --config=cifar10 --workdir=runs/teacher
      moonshine train --config=cifar10 --workdir=runs/student --config.model.block='G(N/8)' \
          --config.distill.teacher=runs/teacher --config.distill.alpha=0

  The same command in the same workdir goes on from the newest checkpoint. `python -m moonshine_jax.main` is the same.
  """
  config_flags.DEFINE_config_file('config', None, CONFIG_HELP, flag_values=values)
  flags.DEFINE_string('workdir', None, 'Folder for checkpoints, metrics and the config.', flag_values=values)
  define_trust_code(values)
  define_process_flags(values)


@command('data', 'moonshine_jax.cli.data', arguments=('NAME',))
def data(values: FlagValues) -> None:
  """Looks through a data set: its splits, classes, channels and damaged images; and draws some of its images.

      moonshine data digits
      moonshine data folder:flowers --image_size=64
      moonshine data cifar:cifar-10-python.tar.gz --out=cifar.png

  NAME is what `config.data.name` takes. Every image is decoded. The picture shows training images as they are
  augmented, with the names of their classes. Exit status 2 where images are damaged.
  """
  define_data_dir(values)
  flags.DEFINE_integer(
    'image_size', 0, 'Pixels on a side to which images of any size are cropped; 0 for one size.', 0, flag_values=values
  )
  flags.DEFINE_string('train_split', 'train', 'The training split, or a part of it.', flag_values=values)
  flags.DEFINE_string('test_split', 'test', 'The test split, or a part of it.', flag_values=values)
  flags.DEFINE_integer('pad', 4, 'As config.data.pad.', 0, flag_values=values)
  flags.DEFINE_bool('flip', True, 'As config.data.flip.', flag_values=values)
  flags.DEFINE_integer(
    'examples', None, 'Decodes so many images of any size of each split, evenly spaced.', 1, flag_values=values
  )
  flags.DEFINE_string('out', 'contact_sheet.png', 'PNG file for the picture.', flag_values=values)


@command('evaluate', 'moonshine_jax.cli.evaluate', required=('workdir',))
def evaluate(values: FlagValues) -> None:
  """Evaluates a trained network on its test images.

      moonshine evaluate --workdir=runs/student
      moonshine evaluate --workdir=runs/student --json

  Needs nothing but the workdir and the data.
  """
  flags.DEFINE_string('workdir', None, f'The workdir of a training run{OR_FILE}.', flag_values=values)
  define_data(values)
  flags.DEFINE_bool('json', False, 'Prints JSON.', flag_values=values)
  define_trust_code(values)
  define_process_flags(values)


@command('report', 'moonshine_jax.cli.report', arguments=('DIR',))
def report(values: FlagValues) -> None:
  """Makes tables, figures and one page of a folder of runs.

      moonshine report runs
      moonshine report runs --json=runs.json --latency=latency.json

  Prints the table as Markdown. Writes it whole, beside what the paper printed, as Markdown, CSV and a page, index.html,
  with the figures, which are files as well. DIR may also be the JSON file that --json writes.
  """
  flags.DEFINE_string(
    'out', None, 'Folder for the report, in place of DIR/report (FILE-report for FILE.json).', flag_values=values
  )
  flags.DEFINE_string('latency', None, 'JSON of latencies, as `cost --latency --json` prints it.', flag_values=values)
  flags.DEFINE_string(
    'json', None, 'File to write the runs to, from which the report can be made again.', flag_values=values
  )
  define_trust_code(values)


@command('attention', 'moonshine_jax.cli.attention', required=('workdirs', 'images', 'out'))
def attention(values: FlagValues) -> None:
  """Draws the attention maps of a teacher and its students, side by side.

      moonshine attention --workdirs=runs/teacher,runs/student --images=0,1,2 --out=maps.png

  A row for each image of the test split, with its label; for each network the normalised maps of its activations
  (conv2, conv3 and conv4 of a Wide ResNet) and the label that it predicts. Needs Matplotlib.
  """
  flags.DEFINE_list('workdirs', None, 'The workdirs of the networks, the teacher first.', flag_values=values)
  flags.DEFINE_list('images', ['0', '1', '2'], 'Indices of images in the test split, from 0.', flag_values=values)
  flags.DEFINE_string('out', None, 'PNG, SVG or PDF file for the picture.', flag_values=values)
  define_data(values)
  define_trust_code(values)


@command('cost', 'moonshine_jax.cli.cost')
def cost(values: FlagValues) -> None:
  """Counts the parameters, multiply-adds and memory of networks, and measures their latency.

      moonshine cost                                           # all of Table 3
      moonshine cost --network='G(N/8)' --network='WRN-16-2 S' --latency --layers
      moonshine cost --network='ResNet-18 G(N/8)' --image_size=224 --num_classes=1000
      moonshine cost --network='mine.py:network G(N/8)'        # a user's function; S without a block
      moonshine cost --workdir=runs/teacher --workdir=runs/student
      moonshine cost --max_params=300000 --max_latency_ms=5    # those within both budgets, the lowest error first

  For each network: parameters, as the paper counts them (with BN's running statistics), and those that are trained;
  multiply-adds of one image; the activations of one image, those that training keeps and the peak of inference; the
  arrays that are deployed (all variables), and those of a training checkpoint (the momentum as well). '-' stands for
  what the loops of a user's network hide, and for the checkpoint of one that cannot be trained. All are float32, but
  for the activations of a run in bfloat16. Errors are the paper's by attention transfer, for the teacher without it.

  The latency is the median time from one uint8 image to its logits in evaluation mode, compiled for one device of this
  machine, all networks taking turns. Without it nothing is computed. A workdir's network is counted for the classes and
  the images of its run's data, which is not read.
  """
  flags.DEFINE_multi_string(
    'network',
    [],
    'A network, as "G(N/8)" for WRN-40-2, "WRN-16-2 S", "ResNet-18 G(N/8)" or "mine.py:function G(N/8)"; '
    'may be repeated. All of the table without it.',
    flag_values=values,
  )
  flags.DEFINE_multi_string('workdir', [], f'A workdir{OR_FILE}, for its network; may be repeated.', flag_values=values)
  flags.DEFINE_enum('table', '3', ['3', '4'], "The paper's table: 3 for CIFAR-10, 4 for CIFAR-100.", flag_values=values)
  flags.DEFINE_integer('image_size', 32, 'Pixels on a side, of 3 channels.', 1, 4096, flag_values=values)
  flags.DEFINE_integer('num_classes', None, "Size of the logits; by default the table's.", 1, 10**6, flag_values=values)
  flags.DEFINE_bool('layers', False, 'Lists the layers of each network.', flag_values=values)
  flags.DEFINE_bool('latency', False, 'Measures the latency on this machine.', flag_values=values)
  flags.DEFINE_integer('max_params', None, 'Budget of parameters, counted as in the paper.', 1, flag_values=values)
  flags.DEFINE_integer('max_macs', None, 'Budget of multiply-adds.', 1, flag_values=values)
  flags.DEFINE_float('max_latency_ms', None, 'Budget of milliseconds; measures the latency.', 0, flag_values=values)
  flags.DEFINE_bool('json', False, 'Prints JSON: sizes in bytes, latencies in seconds.', flag_values=values)
  define_trust_code(values)


@command('export', 'moonshine_jax.cli.export', required=('workdir', 'format'))
def export(values: FlagValues) -> None:
  """Writes a trained network as StableHLO, ONNX or TFLite.

      moonshine export --workdir=runs/student --format=onnx
      moonshine export --workdir=runs/student --format=tflite --int8
      moonshine export --workdirs=runs/teacher,runs/student --format=onnx --json

  The file takes uint8 images (batch, height, width, channels) and gives logits. Before it is written, it is loaded by
  its runtime, its logits are compared with the network's on test images, and it is timed beside the teacher.
  """
  flags.DEFINE_list(
    'workdir', None, f'The workdir of a training run{OR_FILE}; several are separated by commas.', flag_values=values
  )
  flags.DEFINE_alias('workdirs', 'workdir', flag_values=values)
  flags.DEFINE_enum('format', None, ['stablehlo', 'onnx', 'tflite'], 'Format of the file.', flag_values=values)
  flags.DEFINE_string(
    'out',
    None,
    'The file to write; by default `network` with the suffix, in the workdir, or NAME with it, here.',
    flag_values=values,
  )
  flags.DEFINE_bool(
    'int8', False, 'Quantises weights and activations to 8 bits, and measures the test error.', flag_values=values
  )
  flags.DEFINE_integer('examples', None, 'Measures the test error on so many images only.', 1, flag_values=values)
  define_data(values)
  flags.DEFINE_bool(
    'json', False, 'Prints JSON: sizes in bytes, latencies in seconds, errors in percent.', flag_values=values
  )
  define_trust_code(values)


@command('import-torch', 'moonshine_jax.cli.import_torch', arguments=('FILE',), required=('workdir',))
def import_torch(values: FlagValues) -> None:
  r"""Makes a workdir of a network that was trained in PyTorch.

      moonshine import-torch teacher.pt --workdir=runs/teacher
      moonshine import-torch teacher.pt --workdir=runs/teacher --config=cifar10 \
          --mean=0.4914,0.4822,0.4465 --std=0.2023,0.1994,0.2010

  FILE holds a state dict, by `torch.save` or as safetensors, of a Wide ResNet or of a ResNet of torchvision. Without a
  config, a Wide ResNet for 10 or 100 classes is taken to be trained on CIFAR-10 or CIFAR-100, a ResNet for 1000 on
  ImageNet.
  """
  config_flags.DEFINE_config_file(
    'config', None, 'Config of the data that the network was trained on: a path, or a name.', flag_values=values
  )
  flags.DEFINE_string('workdir', None, 'Folder for the network.', flag_values=values)
  flags.DEFINE_list(
    'mean', None, 'Means of the channels, of pixels from 0 to 1, as given to transforms.Normalize.', flag_values=values
  )
  flags.DEFINE_list('std', None, 'Standard deviations of the channels, of pixels from 0 to 1.', flag_values=values)
  flags.DEFINE_string(
    'state', None, 'Key of the network in a file that holds several, as state_dict_ema.', flag_values=values
  )
  flags.DEFINE_float(
    'expect_error', None, 'Its test error in PyTorch: with another, none is imported.', 0, 100, flag_values=values
  )


@command('sweep', 'moonshine_jax.launch.sweep', required=('config', 'out'))
def sweep(values: FlagValues) -> None:
  """Trains a teacher and its students by every regime with several seeds, and prints their table.

      moonshine sweep --config=digits --blocks='G(N/8)' --seeds=3 --out=runs/digits
      moonshine sweep --config=table3 --out=runs/table3 --workers=8 --config.model.dtype=bfloat16
      moonshine sweep --config=digits --regimes=KD --kd_forms=released,equation,hinton --out=runs/forms
      moonshine sweep --config=digits --vary=distill.temperature=2,4,8 --vary=distill.alpha=0.5,0.9 --out=runs/weights

  The config is the teacher's. The students are those that it names in distill.students, all of them or those of
  --blocks; where it names none, the teacher's network with each of --blocks. They train in processes of `moonshine
  train`, up to --together=N of one seed in one process, from one forward pass of the teacher, as the device's memory
  allows. A process uses all devices; with --workers=N, N run at a time, each on one GPU. Every network has a workdir in
  DIR, and what a process prints is in a file `.log` beside the workdir of its first network.

  A sweep that is started again leaves out what is done and goes on with the rest; SIGTERM or Ctrl-C stops it, with all
  saved. With --dry_run it prints the commands instead, the teacher's first; the others may run in any order, anywhere,
  once that is done (launch/sweep_slurm.sbatch).
  """
  config_flags.DEFINE_config_file(
    'config', None, f"The teacher's config; it may name the students. {CONFIG_HELP}", flag_values=values
  )
  flags.DEFINE_string('out', None, 'Folder for the workdirs of all runs.', flag_values=values)
  flags.DEFINE_string(
    'blocks',
    None,
    "Blocks of the students, separated by commas (default: all of the config's, or G(N/8)).",
    flag_values=values,
  )
  flags.DEFINE_list(
    'regimes',
    ['none', 'KD', 'AT'],
    'Regimes, of none, KD, AT and KD+AT; empty for the students alone as the config has them.',
    flag_values=values,
  )
  flags.DEFINE_list('kd_forms', [], "Forms of KD, a student for each (default: the config's).", flag_values=values)
  flags.DEFINE_list('at_forms', [], "Forms of AT, a student for each (default: the config's).", flag_values=values)
  flags.DEFINE_multi_string(
    'vary',
    [],
    'FIELD=VALUE,VALUE: a student for each value, for each combination of several --vary; the errors are of a part of '
    'the training split that nothing trains on (data.held_out, 0.1 unless the config says another).',
    flag_values=values,
  )
  flags.DEFINE_integer('points', None, 'So many combinations of --vary, drawn at random.', 1, flag_values=values)
  flags.DEFINE_integer('seeds', 3, 'Students of each block and regime, with seeds from 0.', 1, 1000, flag_values=values)
  flags.DEFINE_float(
    'scale',
    None,
    'Trains for this share of the epochs on this share of the data: a rehearsal, not the result.',
    0.01,
    1,
    flag_values=values,
  )
  flags.DEFINE_integer(
    'together', 3, 'Students that learn in one process from one teacher.', 1, 100, flag_values=values
  )
  flags.DEFINE_integer('workers', 1, 'Processes at a time; of several, each has one GPU.', 1, 64, flag_values=values)
  flags.DEFINE_bool('dry_run', False, 'Prints the commands of all runs and trains nothing.', flag_values=values)
  define_trust_code(values)
