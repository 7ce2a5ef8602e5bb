#!/bin/sh
# Fuzzes: fuzz.sh [NAME...] [--seconds N], all targets by default, each for N seconds (default: an hour).
#
# atheris is in an environment of its own (.venv-fuzz), made once, and put behind .venv on the path. Where it cannot be
# had (it has wheels for Linux and x86-64 alone), this says so and succeeds: tests replay what fuzzing found all the same.
set -eu
cd "$(dirname "$0")/.."
say() { printf '>> %s\n' "$*" >&2; }
seconds=3600 names=
while [ $# -gt 0 ]; do
    case $1 in
    --seconds) seconds=$2; shift ;;
    *) names="$names $1" ;;
    esac
    shift
done
PYTHON=$(.venv/bin/python -c 'import sys; print(sys._base_executable)') scripts/venv.sh .venv-fuzz requirements/fuzz.lock || {
    say "no fuzzing: atheris cannot be had here"
    rm -rf .venv-fuzz
    exit 0
}
behind=$(.venv-fuzz/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
[ -n "$names" ] || names=$(.venv/bin/python -c 'from fuzz.targets import TARGETS; print(*TARGETS)')
for name in $names; do
    say "fuzzing $name for $seconds s"
    # libtiff and FFmpeg talk of every damage that they see; what atheris says is what counts.
    mkdir -p .cache/fuzz
    PYTHONPATH="$behind" nice .venv/bin/python -m fuzz "$name" --seconds "$seconds" --corpus ".cache/fuzz/$name" \
        >".cache/fuzz/$name.log" 2>&1 || {
        tail -40 ".cache/fuzz/$name.log"
        say "$name found something: see fuzz/crashes/$name and .cache/fuzz/$name.log"
        exit 1
    }
    grep -aE '^stat::(number_of_executed_units|peak_rss_mb)|DONE' ".cache/fuzz/$name.log" || true
done
