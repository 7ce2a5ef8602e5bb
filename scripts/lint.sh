#!/bin/sh
# Everything that can be known without running the code.
set -eu
cd "$(dirname "$0")/.."
bin=.venv/bin
say() { printf '>> %s\n' "$*"; }
say "ruff: style"
$bin/ruff check --quiet .
$bin/ruff format --quiet --check .
say "mypy: types"
$bin/mypy --no-error-summary
say "import-linter: who may import whom"
$bin/lint-imports --no-cache >/dev/null || { $bin/lint-imports --no-cache; exit 1; }
say "buf: the wire contract's style, and nothing broken since the last release"
$bin/buf lint protos
$bin/buf format --diff --exit-code protos >/dev/null || { $bin/buf format --diff protos; exit 1; }
$bin/buf breaking protos --against protos/released.binpb
say "generated code is what the contract says"
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
scripts/protos.sh "$fresh"
for file in "$fresh"/multimodal/v1/*; do
    cmp -s "$file" "protos/multimodal/v1/${file##*/}" || {
        say "protos/multimodal/v1/${file##*/} is stale: run make protos"
        exit 1
    }
done
say "locks name no registry host"
if grep -nE '://' requirements/*.lock; then exit 1; fi
say "figures in the docs are those of bench/results"
$bin/python scripts/figures.py --check
$bin/python scripts/parity_table.py --check
say "the chart's schema and page are made of its values and of the settings"
$bin/python scripts/chart_docs.py --check
say "the chart's dashboard is what its table makes"
$bin/python scripts/dashboards.py --check
say "all is well"
