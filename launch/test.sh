#!/usr/bin/env bash
# From a fresh clone to a tested one: installs into .venv, checks the style, runs the tests. Arguments go to pytest.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
ruff check .
export OMP_NUM_THREADS=1 # tiny models: two test processes use two cores better than two threads do
exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@" # in the order of tests/conftest.py
