#!/bin/sh
# Makes .venv from the lock and puts the project into it, once; a second run returns at once.
set -eu
cd "$(dirname "$0")/.."
scripts/venv.sh .venv requirements/dev.lock
if ! [ -e .venv/.project ] || [ pyproject.toml -nt .venv/.project ]; then
    .venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
    touch .venv/.project
fi
