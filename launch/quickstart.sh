#!/usr/bin/env bash
# From a fresh clone to a table: installs, trains a small teacher on handwritten digits, distils a cheap student from it
# by every regime with three seeds, and prints what came out. Needs no accelerator and no data set.
set -euo pipefail

OUT=${OUT:-runs/digits}

cd "$(dirname "$0")/.."
launch/setup.sh
.venv/bin/moonshine sweep --config=configs/digits.py --blocks='G(N/8)' --seeds=3 --out="$OUT"
