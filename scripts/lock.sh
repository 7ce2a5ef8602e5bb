#!/bin/sh
# Resolves requirements/*.in into locks with hashes for every platform, naming no registry host.
set -eu
cd "$(dirname "$0")/.."
[ -x .cache/uv/bin/uv ] || { python3 -m venv .cache/uv && .cache/uv/bin/pip install -q uv; }
compile() { .cache/uv/bin/uv pip compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --python-version 3.11 "$@"; }
for name in server dev models chart checkov image-build image-tools fuzz; do compile --universal "requirements/$name.in" -o "requirements/$name.lock"; done
for name in triton simd; do compile --no-deps "requirements/$name.in" -o "requirements/$name.lock"; done
