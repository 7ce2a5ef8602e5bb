"""Compiles every kernel for levels of processors and keeps the code: kernels.py FOLDER [LEVEL...]

FOLDER is `sidecar/stages/kept` of an installation, from where `sidecar/stages/compiled.py` takes it; without levels,
those of this machine's architecture. What kinds of arguments there are is found by running each kernel once, compiled
for this machine; for a level they are only compiled, so that no machine needs to be of it.
"""

from __future__ import annotations

import os
import pickle
import platform
import subprocess
import sys
from pathlib import Path

from sidecar.stages import compiled, fourier, kernels, unfilter

OF_X86 = ("x86-64-v3", "x86-64-v4")
# The one argument of the process that compiles: the level is in its environment, where numba looks for it.
COMPILE = "--compile"


def main(arguments: list[str]) -> int:
    if arguments == [COMPILE]:
        return compile_kinds()
    folder, *levels = arguments
    for each in (kernels, fourier, unfilter):
        each.warm()
    kinds = {kernel.py_func.__qualname__: kernel.signatures for kernel in compiled.KERNELS}
    for level in levels or (OF_X86 if platform.machine() == "x86_64" else ("generic",)):
        place = Path(folder) / level
        where = {"NUMBA_CACHE_DIR": str(place), "NUMBA_CPU_NAME": level, "NUMBA_CPU_FEATURES": ""}
        subprocess.run(  # noqa: S603 - this file
            [sys.executable, __file__, COMPILE], input=pickle.dumps(kinds), env=os.environ | where, check=True
        )
        print(f"{sum(map(len, kinds.values()))} kernels for {level} in {place}")
    return 0


def compile_kinds() -> int:
    """Compiles the kinds of arguments that come in on stdin."""
    kinds = pickle.load(sys.stdin.buffer)  # noqa: S301 - from this file's own parent
    for kernel in compiled.KERNELS:
        for kind in kinds[kernel.py_func.__qualname__]:
            kernel.compile(kind)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
