#!/usr/bin/env bash
# From a fresh clone: installs, checks the style and runs the tests. Arguments go to pytest.
set -euo pipefail

cd "$(dirname "$0")/.."
launch/setup.sh test
.venv/bin/python -m ruff check .
.venv/bin/python -m pytest "$@"
