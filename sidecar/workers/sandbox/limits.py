"""What the kernel lets a worker take at most, whatever it does: memory, open files, files' sizes, threads, core dumps.

No bound on CPU time is here: the kernel counts it over a process's whole life and all its threads, and a lease is a
job's. The supervisor in the front holds jobs to theirs, and ends who overruns it.
"""

from __future__ import annotations

import os
import re
import resource
import stat
from pathlib import Path
from typing import Final

from sidecar.workers.sandbox.descriptors import opened
from sidecar.workers.sandbox.kernel import Unavailable

# A sound lies in a memory file while it is decoded, of which FFmpeg takes a second descriptor.
_FILES_A_JOB: Final = 2
_STANDARD_ERROR: Final = 2
_STATUS: Final = Path("/proc/self/status")


def limit_resources(memory_bytes: int, file_bytes: int, threads: int) -> None:
    """Bounds for a worker that is warm, before its threads start. Raises Unavailable.

    `memory_bytes` of private memory that can be written to, beside what there is: neither the arena nor mapped code
    counts. `file_bytes` is the longest file that can be written. A log that goes to a file would count as one, so
    there is no such bound then.
    """
    bounds = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_DATA: _data_bytes() + memory_bytes,
        resource.RLIMIT_NOFILE: max(opened()) + 1 + _FILES_A_JOB * threads,
    }
    if not stat.S_ISREG(os.fstat(_STANDARD_ERROR).st_mode):
        bounds[resource.RLIMIT_FSIZE] = file_bytes
    for kind, most in bounds.items():
        _lower(kind, most)


def end_threads() -> None:
    """No thread and no process more, now that all are there. The kernel does not hold root to it; seccomp does."""
    _lower(resource.RLIMIT_NPROC, 0)


def _lower(kind: int, most: int) -> None:
    """The bound, or the one that is there already where it is lower."""
    _, hard = resource.getrlimit(kind)
    bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
    try:
        resource.setrlimit(kind, (bound, bound))
    except (OSError, ValueError) as error:
        raise Unavailable(f"setrlimit: {error}") from error


def _data_bytes() -> int:
    """What this process has of the memory that the bound counts."""
    found = re.search(r"^VmData:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise Unavailable("/proc/self/status does not tell VmData")
    return int(found[1]) << 10
