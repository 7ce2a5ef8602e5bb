#!/bin/sh
# The tests: quick by default, with --full the long suites too. Further options go to pytest.
set -eu
cd "$(dirname "$0")/.."
chosen='not full'
[ "${1:-}" = --full ] && { chosen=''; shift; }
.venv/bin/python -m pytest -m "$chosen" "$@"
# Once more what depends on the resize engine, with pillow-simd in place of Pillow, where it can be built.
scripts/simd.sh
[ ! -x .venv-simd/bin/python ] ||
    .venv-simd/bin/python -m pytest -m "$chosen" tests/recipes tests/stages/transform "$@"
