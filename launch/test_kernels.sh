#!/usr/bin/env bash
# The Triton kernels of the output head on a CPU: by Triton's interpreter, and compiled for cards that are not here.
# Triton goes into a folder of its own, so that the environment stays that of a CPU. Arguments go to pytest.
set -euo pipefail
. "$(dirname "$0")/environment.sh"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
pip install --quiet --no-deps --target "$folder" triton
PYTHONPATH=$folder TRITON_INTERPRET=1 OMP_NUM_THREADS=1 python -m pytest -m "" tests/learner/test_head_kernels.py "$@"
