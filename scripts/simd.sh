#!/bin/sh
# Makes .venv-simd: the tests' environment for transformers' torchvision backend. pillow-simd stands in place
# of Pillow there, with torch and torchvision as judges beside it where a CPU build of torch is offered;
# everything else is taken from .venv, which must exist.
#
# It is an extra: where it cannot be made, this says why and succeeds. A second run returns at once; to try
# again after installing what was missing, remove .venv-simd.
set -eu
cd "$(dirname "$0")/.."
dir=.venv-simd
simd=pillow-simd==12.1.1.post0
# The local version is asked for by name, because it exists for CPU-only builds alone: elsewhere pip finds
# none and takes nothing, where plain 2.13.0 would bring gigabytes of CUDA.
torch=torch==2.13.0+cpu
torchvision=torchvision==0.28.0

say() { printf '>> %s\n' "$*" >&2; }
without() { say "no $dir: $*; the tests that need pillow-simd are skipped"; rm -rf "$dir"; exit 0; }

stamp="$dir/.installed"
want=$(cksum <"$0"; .venv/bin/python --version)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && exit 0

[ -x .venv/bin/pip ] || without "there is no .venv yet"
grep -qw avx2 /proc/cpuinfo 2>/dev/null || without "this processor has no AVX2"
command -v cc >/dev/null || without "there is no C compiler (Debian, Ubuntu: apt-get install gcc)"
include=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("include"))')
printf '#include <stdio.h>\n#include <Python.h>\n#include <jpeglib.h>\n#include <zlib.h>\n' |
    cc -I"$include" -E - >/dev/null 2>&1 ||
    without "headers are missing (Debian, Ubuntu: apt-get install python3-dev libjpeg-dev zlib1g-dev)"

say "making $dir: $simd compiled with AVX2, and $torch where it is offered (once; a minute)"
rm -rf "$dir"
.venv/bin/python -m venv --without-pip "$dir"
install() {
    .venv/bin/python -m pip --python "$dir/bin/python" --disable-pip-version-check install \
        --quiet --progress-bar off --no-deps "$@"
}
CC="cc -mavx2" install --no-cache-dir --no-binary :all: "$simd" || without "$simd does not build here"
if ! install --only-binary :all: "$torch" 2>/dev/null; then
    say "pip offers no $torch here: pillow-simd is judged by recorded answers instead of torchvision itself"
elif ! install --only-binary :all: "$torchvision"; then
    say "pip offers no $torchvision here: pillow-simd is judged by recorded answers instead"
fi

# Behind its own packages come those of .venv, its links to this project included.
packages() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
printf 'import site; site.addsitedir("%s")\n' "$(packages .venv/bin/python)" >"$(packages "$dir/bin/python")/behind.pth"
printf '%s\n' "$want" >"$stamp"
