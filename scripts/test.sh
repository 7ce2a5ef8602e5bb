#!/bin/sh
# The tests: quick by default; with --full the long suites too, other examples of property tests, and beside other judges.
# Further options go to pytest.
set -eu
cd "$(dirname "$0")/.."
chosen='not full' examples=same whole=
[ "${1:-}" = --full ] && { chosen='' examples=others whole=yes; shift; }
set -- -m "$chosen" --hypothesis-profile="$examples" "$@"
.venv/bin/python -m pytest "$@"
[ -n "$whole" ] || exit 0
# Once more beside the judges of the torchvision backend, pillow-simd and torch, where they can be had.
scripts/simd.sh
[ ! -x .venv-simd/bin/python ] ||
    .venv-simd/bin/python -m pytest tests/recipes tests/stages/transform "$@"
# Half a minute a target: enough to find that a target itself is broken.
scripts/fuzz.sh --seconds 30
