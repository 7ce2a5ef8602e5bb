#!/bin/sh
# The tests: quick by default, with --full the long suites too. Further options go to pytest.
set -eu
cd "$(dirname "$0")/.."
chosen='not full'
[ "${1:-}" = --full ] && { chosen=''; shift; }
.venv/bin/python -m pytest -m "$chosen" "$@"
# Once more beside the judges of the torchvision backend, pillow-simd and torch, where they can be had.
scripts/simd.sh
[ ! -x .venv-simd/bin/python ] ||
    .venv-simd/bin/python -m pytest -m "$chosen" tests/recipes tests/stages/transform "$@"
