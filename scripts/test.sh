#!/bin/sh
# The tests: quick by default, with --full the long suites too. Further options go to pytest.
set -eu
cd "$(dirname "$0")/.."
chosen='not full'
[ "${1:-}" = --full ] && { chosen=''; shift; }
.venv/bin/python -m pytest -m "$chosen" "$@"
