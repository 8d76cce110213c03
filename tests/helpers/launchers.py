"""What the tests of the launch scripts share."""

import subprocess

# What a shell, YAML and Kubernetes would all like to have a word with.
FLAGS = [
  '--config=configs/cifar10.py',
  '--workdir=/runs/a b',
  "--config.distill.students=('block=G(N/8) alpha=0', )",
  '--config.data.name=$(HOME) $HOME "x" \\ * #',
]


# Of each launcher: the arguments before the flags, and the variables that it needs.
LAUNCHERS = {
  'train.sh': ([], {}),
  'slurm.sbatch': ([], {}),
  'tpu.sh': (['train'], {'ZONE': 'z', 'ACCELERATOR_TYPE': 'v6e-16', 'RUNTIME_VERSION': 'r', 'BUCKET': 'b'}),
  'kubernetes.sh': ([], {'IMAGE': 'registry/image', 'CLAIM': 'claim', 'PODS': '2', 'GPUS': '8'}),
  'skypilot.sh': ([], {'BUCKET': 'gs://b', 'NODES': '2'}),
}


def shell_words(text):
  """The words that a shell makes of a text."""
  result = subprocess.run(['bash', '-c', f'printf "%s\\0" {text}'], capture_output=True, text=True, check=True)
  return result.stdout.split('\0')[:-1]
