#!/usr/bin/env bash
# Makes the virtual environment .venv in the root of the repository and installs the package there.
#   launch/setup.sh [EXTRAS]     EXTRAS of setup.py, separated by commas: test, docs, report, torch, benchmarks, cuda,
#                                gpu-aot, tpu, prepare, parquet, stablehlo, onnx, tflite
set -euo pipefail

PYTHON=${PYTHON:-python3}
EXTRAS=${1:-}

cd "$(dirname "$0")/.."
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "error: $("$PYTHON" --version) is too old: expected Python 3.11 or newer, as PYTHON=/path/to/python3.11 $0" >&2
  exit 2
}
[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${EXTRAS:+[$EXTRAS]}"
