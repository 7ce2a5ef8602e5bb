#!/bin/sh
# Generates the contract's Python code into DIR (default: protos/, where it is committed).
set -eu
cd "$(dirname "$0")/.."
out=${1:-protos}
PATH="$PWD/.venv/bin:$PATH"
protoc() { python -m grpc_tools.protoc -Iprotos "$@"; }
protoc --python_out="$out" --mypy_out=quiet:"$out" protos/multimodal/v1/*.proto
protoc --grpc_python_out="$out" --mypy_grpc_out=quiet:"$out" protos/multimodal/v1/preprocessor.proto protos/multimodal/v1/diagnostics.proto
