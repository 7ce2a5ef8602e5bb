"""What the kernel says of another process's work: CPU time used, and whether it wants more.

Reads only; of a process that is gone it says nothing new.
"""

from __future__ import annotations

import time
from pathlib import Path

# /proc/PID/stat, the third field: running or waiting for a core, or for a page or a disk.
_WANTS = ("R", "D")


def cpu_ns(pid: int) -> int:
    """CPU time of a process, all its threads together, nanoseconds; 0 where it is gone."""
    try:
        return time.clock_gettime_ns(_clock(pid))
    except OSError:
        return 0


def wants_a_core(pid: int) -> bool:
    """Whether any thread of a process runs or would run if it were let."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return any((task / "stat").read_text().rpartition(")")[2].split()[0] in _WANTS for task in tasks)
    except OSError:
        return False


def _clock(pid: int) -> int:
    """A process's CPU clock (clock_getcpuclockid(3), which Python has not): the kernel's own numbering."""
    return (~pid << 3) | 2
