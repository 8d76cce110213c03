#!/usr/bin/env bash
# From a fresh clone: installs, checks the style, the layers and the types, and runs the tests. Arguments go to pytest.
set -euo pipefail

cd "$(dirname "$0")/.."
launch/setup.sh test
# The same checks as in .pre-commit-config.yaml.
.venv/bin/python -m ruff format --check .
.venv/bin/python -m ruff check .
.venv/bin/lint-imports
.venv/bin/python -m mypy
# Two at a time: most of it is compiling, on one core. A file's tests share what it has compiled. The longest files come
# first (tests/conftest.py).
.venv/bin/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder "$@"
