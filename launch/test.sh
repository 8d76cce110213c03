#!/usr/bin/env bash
# From a fresh clone: installs, checks the style, the layers and the types, builds the site, runs the tests. Arguments
# go to pytest.
set -euo pipefail

cd "$(dirname "$0")/.."
launch/setup.sh test,docs
# The same checks as in .pre-commit-config.yaml, and the site.
.venv/bin/python -m ruff format --check .
.venv/bin/python -m ruff check .
.venv/bin/lint-imports
# The site and the types at once: each is of one core. A link that leads nowhere fails the build.
NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict --quiet &
site=$!
.venv/bin/python -m mypy
wait "$site"
# Two at a time: most of it is compiling, on one core. A file's tests share what it has compiled. The longest files come
# first (tests/conftest.py).
.venv/bin/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder "$@"
