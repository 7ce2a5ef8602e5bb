#!/bin/sh
# Makes .venv-peers: what `bench peers` measures us against, each in an environment of its own from a lock
# with hashes, and pillow-simd beside them where it can be built. A second run returns at once.
#
# `peers.sh --lock` resolves requirements/peers-*.in into the locks anew instead.
#
# It is an extra: a peer that cannot be installed is said so and left out, and the rest is made all the same.
set -eu
cd "$(dirname "$0")/.."
home=.venv-peers
simd=pillow-simd==12.1.1.post0

say() { printf '>> %s\n' "$*" >&2; }

if [ "${1:-}" = --lock ]; then
    [ -x .cache/uv/bin/uv ] || { python3 -m venv .cache/uv && .cache/uv/bin/pip install -q uv; }
    for name in requirements/peers-*.in; do
        .cache/uv/bin/uv pip compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
            --python-version 3.11 --universal "$name" -o "${name%.in}.lock"
    done
    exit 0
fi

# The interpreter that Triton's models run in: its stub is for one minor version, and one build of pillow-simd
# is for all.
if [ -x .venv-models/bin/python ]; then
    PYTHON=$(.venv-models/bin/python -c 'import sys; print(sys._base_executable)')
    export PYTHON
fi

mkdir -p "$home"
for lock in requirements/peers-*.lock; do
    name=${lock#requirements/peers-}
    name=${name%.lock}
    scripts/venv.sh "$home/$name" "$lock" || { say "the peer $name is left out"; rm -rf "${home:?}/$name"; }
done

# pillow-simd is a folder to put before the others on the path: one build for every peer.
[ -d "$home/simd" ] && exit 0
without() { say "no pillow-simd: $*; its rows are left out"; rm -rf "$home/simd"; exit 0; }
[ -x "$home/triton/bin/pip" ] || without "there is no environment to build it with"
grep -qw avx2 /proc/cpuinfo 2>/dev/null || without "this processor has no AVX2"
command -v cc >/dev/null || without "there is no C compiler (Debian, Ubuntu: apt-get install gcc)"
say "compiling $simd with AVX2 (once; a minute)"
CC="cc -mavx2" "$home/triton/bin/pip" install --quiet --progress-bar off --disable-pip-version-check --no-deps \
    --no-cache-dir --no-binary :all: --target "$home/simd" "$simd" ||
    without "it does not build here (Debian, Ubuntu: apt-get install python3-dev libjpeg-dev zlib1g-dev)"
