"""How much memory this process may use: the least of what the machine has and its control groups allow.

Reads files, decides nothing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from sidecar.observe.cgroups import Places, group_files

_LIMITS: Final[Places] = {
    "": (("sys/fs/cgroup", "memory.max"), ("sys/fs/cgroup/unified", "memory.max")),
    "memory": (("sys/fs/cgroup/memory", "memory.limit_in_bytes"),),
}


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes that this process may use: the least limit of its control groups and of those above them that
    can be seen, and at most what the machine has. `root` is where the file system begins.

    Raises OSError where the machine's memory cannot be read at all.
    """
    meminfo = (root / "proc/meminfo").read_text(encoding="ascii")
    total = re.search(r"^MemTotal:\s+(\d+) kB$", meminfo, re.MULTILINE)
    if total is None:
        raise OSError("/proc/meminfo does not tell MemTotal")
    return min([int(total[1]) * 1024, *_group_limits(root)])


def _group_limits(root: Path) -> list[int]:
    found = (_limit(file) for file in group_files(root, _LIMITS))
    return [limit for limit in found if limit is not None]


def _limit(file: Path) -> int | None:
    """The limit in a file; None where there is no such file or no limit."""
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
